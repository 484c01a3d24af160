import { afterAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { blobPath, type PlainDescriptor, REF_NAME, readLayout } from "../../../../scripts/benchmark/layout.ts";
import { Variants } from "../../../../scripts/benchmark/variants.ts";

const dir = mkdtempSync(join(tmpdir(), "bench-variants-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const SUPERBLOCK = 1024;
const UUID = { start: SUPERBLOCK + 48, end: SUPERBLOCK + 64 };

function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** A tar by tar(1): the bootstrap is not its first entry. */
function bootstrapTar(name: string): Buffer {
  const root = mkdtempSync(join(dir, "root-"));
  mkdirSync(join(root, "image"));
  writeFileSync(join(root, "image", "a-file"), Buffer.alloc(700, 1));
  writeFileSync(join(root, "image", name), Buffer.alloc(5000, 7));
  const { stdout } = Bun.spawnSync(["tar", "-C", root, "--format=ustar", "-c", "image/a-file", `image/${name}`]);
  return stdout;
}

function writeImage(name: string, tar: Uint8Array): ReturnType<typeof readLayout> {
  const layout = join(dir, name);
  mkdirSync(join(layout, "blobs", "sha256"), { recursive: true });
  const put = (bytes: Uint8Array, mediaType: string): PlainDescriptor => {
    const digest = sha256(bytes);
    writeFileSync(blobPath(layout, digest), bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const layers = [put(Buffer.from("a blob"), "blob"), put(gzipSync(tar), "bootstrap")];
  const rootfs = { type: "layers", diff_ids: [sha256(Buffer.from("a layer")), sha256(tar)] };
  const config = put(Buffer.from(JSON.stringify({ os: "linux", rootfs })), "config");
  const manifest = put(Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers })), "manifest");
  const index = { manifests: [{ ...manifest, annotations: { [REF_NAME]: "r" } }] };
  writeFileSync(join(layout, "index.json"), JSON.stringify(index));
  return readLayout(layout, "r");
}

test("variants differ from their image, and from each other, in the unique id of the bootstrap alone", () => {
  const tar = bootstrapTar("image.boot");
  const image = writeImage("image", tar);
  const variants = new Variants(image);
  const boots = [1, 2].map((number) => {
    const made = variants.write(number, join(dir, `variant-${number}`));
    const [blob, layer] = made.layers;
    expect(statSync(blob?.path ?? "").ino).toBe(statSync(image.layers[0]?.path ?? "").ino);
    const unpacked = gunzipSync(readFileSync(layer?.path ?? ""));
    expect(sha256(readFileSync(layer?.path ?? ""))).toBe(layer?.digest as string);
    const config = JSON.parse(readFileSync(blobPath(made.dir, made.config.digest), "utf8"));
    expect(config.os).toBe("linux");
    expect(config.rootfs.diff_ids).toEqual([sha256(Buffer.from("a layer")), sha256(unpacked)]);
    const { stdout } = Bun.spawnSync(["tar", "-xO", "image/image.boot"], { stdin: unpacked });
    expect(Bun.spawnSync(["tar", "-xO", "image/a-file"], { stdin: unpacked }).stdout).toEqual(Buffer.alloc(700, 1));
    return stdout;
  });
  const [first, second] = boots as [Buffer, Buffer];
  for (const boot of boots) {
    expect(boot.length).toBe(5000);
    const outside = Buffer.concat([boot.subarray(0, UUID.start), boot.subarray(UUID.end)]);
    expect(outside.every((byte) => byte === 7)).toBe(true);
  }
  expect(first.subarray(UUID.start, UUID.end)).not.toEqual(second.subarray(UUID.start, UUID.end));
});

test("an image without a bootstrap layer has no variants", () => {
  expect(() => new Variants(writeImage("plain", bootstrapTar("other")))).toThrow("has no image/image.boot");
});
