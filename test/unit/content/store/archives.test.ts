import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { NydusError } from "../../../../src/base/errors.ts";
import { openSource, openTarget } from "../../../../src/content/store/open-store.ts";
import type { ImageSource } from "../../../../src/content/store/store.ts";
import { TarArchive } from "../../../../src/content/store/tar-archive.ts";
import { type Descriptor, type Manifest, parseManifest } from "../../../../src/format/oci/manifest.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { mutate, Random } from "../../../kit/random.ts";
import { byteSourceSuite, failureOf } from "../../../suite/byte-source.ts";
import { expectImage, imageStoreSuite, sampleImage, writeImage } from "../../../suite/image-store.ts";

const hasSkopeo = spawnSync("skopeo", ["--version"]).status === 0;
const hasZstd = spawnSync("zstd", ["--version"]).status === 0;

function scratch(): { dir: string; context: { root: string } } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), "nydus-archive-"));
  const dispose = (): void => rmSync(dir, { recursive: true, force: true });
  return { dir, context: { root: join(dir, "state") }, [Symbol.dispose]: dispose };
}

function run(command: string, args: readonly string[], cwd?: string): void {
  const done = spawnSync(command, args, { encoding: "utf8", ...(cwd === undefined ? {} : { cwd }) });
  expect([done.status, done.stderr]).toEqual([0, ""]);
}

async function readManifest(source: ImageSource): Promise<Manifest> {
  const { descriptor, bytes } = await source.root();
  expect(`sha256:${createHash("sha256").update(bytes).digest("hex")}`).toBe(descriptor.digest);
  return parseManifest(bytes, descriptor.mediaType);
}

async function readBlob(source: ImageSource, descriptor: Descriptor): Promise<Buffer> {
  const blob = await source.openBlob(descriptor);
  const bytes = Buffer.from(await blob.readAt({ start: 0, end: blob.sizeBytes }));
  await blob.close();
  expect(`sha256:${createHash("sha256").update(bytes).digest("hex")}`).toBe(descriptor.digest);
  return bytes;
}

byteSourceSuite("An entry of a tar", async (bytes) => {
  const temp = scratch();
  writeFileSync(join(temp.dir, "before"), "x".repeat(700));
  writeFileSync(join(temp.dir, "entry"), bytes);
  run("tar", ["-cf", "archive.tar", "before", "entry", "before"], temp.dir);
  const archive = await TarArchive.open(join(temp.dir, "archive.tar"), temp.context);
  const source = archive.open("entry");
  if (source === undefined) throw new Error("no entry");
  const dispose = async (): Promise<void> => {
    await archive[Symbol.asyncDispose]();
    temp[Symbol.dispose]();
  };
  return { source, bytes, [Symbol.asyncDispose]: dispose };
});

imageStoreSuite("oci-archive:FILE", async () => {
  const temp = scratch();
  const name = (reference: string): string => `oci-archive:${temp.dir}/${reference}.tar:${reference}`;
  return {
    source: (reference) => openSource(name(reference), temp.context),
    target: (reference) => openTarget(name(reference), temp.context),
    [Symbol.asyncDispose]: async () => temp[Symbol.dispose](),
  };
});

describe("TarArchive", () => {
  test.each(["gnu", "pax", "ustar", "v7"])(
    "finds the files of a %s archive of GNU tar, links followed",
    async (format) => {
      using temp = scratch();
      const long = format === "v7" ? "d" : `${"deep/".repeat(18)}${"n".repeat(format === "ustar" ? 60 : 200)}`;
      mkdirSync(join(temp.dir, "in", long), { recursive: true });
      writeFileSync(join(temp.dir, "in", long, "file"), "content of file");
      writeFileSync(join(temp.dir, "in", "plain"), "plain");
      symlinkSync("../in/plain", join(temp.dir, "in", "link"));
      symlinkSync("/etc/passwd", join(temp.dir, "in", "absolute"));
      symlinkSync("../../out", join(temp.dir, "in", "out"));
      symlinkSync("loop", join(temp.dir, "in", "loop"));
      run("ln", ["in/plain", "in/hard"], temp.dir);
      run("tar", [`--format=${format}`, "-cf", "a.tar", "./in"], temp.dir);
      await using archive = await TarArchive.open(join(temp.dir, "a.tar"), temp.context);
      const read = async (name: string): Promise<string | undefined> => {
        const source = archive.open(name);
        return source && Buffer.from(await source.readAt({ start: 0, end: source.sizeBytes })).toString();
      };
      expect(await read(`in/${long}/file`)).toBe("content of file");
      expect(await read("in/plain")).toBe("plain");
      expect(await read("in/link")).toBe("plain");
      expect(await read("in/hard")).toBe("plain");
      for (const none of ["in/absolute", "in/out", "in/loop", "in", "other"]) expect(await read(none)).toBeUndefined();
    },
  );

  test("what is cut, empty or no tar is EUCLEAN with the path", async () => {
    using temp = scratch();
    writeFileSync(join(temp.dir, "f"), "y".repeat(5000));
    run("tar", ["-cf", "a.tar", "f"], temp.dir);
    const whole = readFileSync(join(temp.dir, "a.tar"));
    for (const bytes of [
      whole.subarray(0, 3000),
      Buffer.alloc(0),
      Buffer.alloc(2048),
      Buffer.from("no tar".repeat(999)),
    ]) {
      writeFileSync(join(temp.dir, "b.tar"), bytes);
      const error = await failureOf(TarArchive.open(join(temp.dir, "b.tar"), temp.context));
      expect([error.code, error.at.path]).toEqual(["EUCLEAN", join(temp.dir, "b.tar")]);
    }
    const flipped = Buffer.from(whole);
    flipped[0] = 0x67; // "g": another name, and the checksum no longer fits
    writeFileSync(join(temp.dir, "b.tar"), flipped);
    expect((await failureOf(TarArchive.open(join(temp.dir, "b.tar"), temp.context))).message).toContain("checksum");
    expect((await failureOf(TarArchive.open(join(temp.dir, "none.tar"), temp.context))).code).toBe("ENOENT");
  });

  test("mutated archives end in a NydusError or an index (seed 7)", async () => {
    using temp = scratch();
    writeFileSync(join(temp.dir, "f"), "y".repeat(100));
    mkdirSync(join(temp.dir, "e".repeat(120)));
    symlinkSync("f", join(temp.dir, "g"));
    run("tar", ["--format=pax", "-cf", "a.tar", "f", "g", "e".repeat(120), "f"], temp.dir);
    const whole = readFileSync(join(temp.dir, "a.tar")).subarray(0, 6 * 1024);
    const random = new Random(7);
    for (let i = 0; i < 400; i++) {
      writeFileSync(join(temp.dir, "b.tar"), mutate(whole, random));
      try {
        await using archive = await TarArchive.open(join(temp.dir, "b.tar"), temp.context);
        const source = archive.open("f");
        if (source !== undefined) await source.readAt({ start: 0, end: source.sizeBytes });
      } catch (error) {
        expect(error).toBeInstanceOf(NydusError);
      }
    }
  });

  test.each([
    ["gzip", true],
    ["zstd", hasZstd],
  ] as const)("a %s'ed archive is read by way of a temporary file that goes", async (tool, isThere) => {
    if (!isThere) return;
    using temp = scratch();
    {
      await using target = await openTarget(`oci-archive:${temp.dir}/a.tar:x`, temp.context);
      await writeImage(target, sampleImage("zipped"));
    }
    run(tool, ["-q", "-k", "a.tar"], temp.dir);
    const name = readdirSync(temp.dir).find((file) => /^a\.tar\./.test(file));
    {
      await using source = await openSource(`oci-archive:${temp.dir}/${name}:x`, temp.context);
      await expectImage(source, sampleImage("zipped"));
      expect(readdirSync(join(temp.dir, "state", "tmp")).length).toBe(1);
    }
    expect(readdirSync(join(temp.dir, "state", "tmp"))).toEqual([]);
    const cut = readFileSync(join(temp.dir, name ?? ""));
    writeFileSync(join(temp.dir, "cut"), cut.subarray(0, cut.length - 20));
    expect((await failureOf(openSource(`oci-archive:${temp.dir}/cut:x`, temp.context))).code).toBe("EUCLEAN");
    expect(readdirSync(join(temp.dir, "state", "tmp"))).toEqual([]);
  });
});

describe("oci-archive:", () => {
  test("the same image gives the same file, and nothing else is left beside it", async () => {
    using temp = scratch();
    for (const file of ["a.tar", "b.tar"]) {
      await using target = await openTarget(`oci-archive:${temp.dir}/${file}:x`, temp.context);
      await writeImage(target, sampleImage("same"));
    }
    expect(readFileSync(join(temp.dir, "a.tar")).equals(readFileSync(join(temp.dir, "b.tar")))).toBe(true);
    expect(readdirSync(temp.dir).sort()).toEqual(["a.tar", "b.tar"]);
  });

  test("a target that is not committed leaves the file that was there, and nothing more", async () => {
    using temp = scratch();
    writeFileSync(join(temp.dir, "a.tar"), "old");
    {
      await using target = await openTarget(`oci-archive:${temp.dir}/a.tar:x`, temp.context);
      const { config, configBytes } = sampleImage("lost");
      await target.putBytes(config, configBytes);
    }
    expect(readFileSync(join(temp.dir, "a.tar"), "utf8")).toBe("old");
    expect(readdirSync(temp.dir)).toEqual(["a.tar"]);
    expect((await failureOf(openTarget(`oci-archive:${temp.dir}/no/a.tar`, temp.context))).code).toBe("ENOENT");
  });

  test.skipIf(!hasSkopeo)("skopeo reads ours, and we read skopeo's", async () => {
    using temp = scratch();
    {
      await using target = await openTarget(`oci-archive:${temp.dir}/a.tar:mine`, temp.context);
      await writeImage(target, sampleImage("mine"));
    }
    const raw = spawnSync("skopeo", ["inspect", "--raw", `oci-archive:${temp.dir}/a.tar:mine`]);
    expect(raw.stdout.equals(sampleImage("mine").manifest)).toBe(true);
    run("skopeo", ["copy", "-q", `oci:${smallGolden()}/images:oci`, `oci-archive:${temp.dir}/b.tar:theirs`]);
    await using source = await openSource(`oci-archive:${temp.dir}/b.tar:theirs`, temp.context);
    const manifest = await readManifest(source);
    for (const layer of [manifest.config, ...manifest.layers]) await readBlob(source, layer);
    expect(manifest.layers.length).toBe(3);
  });
});

describe("docker-archive:", () => {
  /** The golden image's layers, uncompressed: what skopeo puts into an archive. */
  async function goldenLayers(): Promise<Buffer[]> {
    await using source = await openSource(`oci:${smallGolden()}/images:oci`, { root: "/nonexistent" });
    const { layers } = await readManifest(source);
    const plain: Buffer[] = [];
    for (const layer of layers) plain.push(gunzipSync(await readBlob(source, layer)));
    return plain;
  }

  test.skipIf(!hasSkopeo).each([false, true])("gives the layers of what skopeo saved (gzip'ed: %p)", async (zipped) => {
    using temp = scratch();
    run("skopeo", ["copy", "-q", `oci:${smallGolden()}/images:oci`, `docker-archive:${temp.dir}/a.tar:ex.org/name:v1`]);
    if (zipped) run("gzip", ["a.tar"], temp.dir);
    const file = `${temp.dir}/a.tar${zipped ? ".gz" : ""}`;
    const wanted = await goldenLayers();
    for (const name of ["", ":ex.org/name:v1", ":@0"]) {
      await using source = await openSource(`docker-archive:${file}${name}`, temp.context);
      const manifest = await readManifest(source);
      expect(manifest.mediaType).toBe("application/vnd.docker.distribution.manifest.v2+json");
      expect(JSON.parse((await readBlob(source, manifest.config)).toString()).rootfs.diff_ids.length).toBe(3);
      for (const [i, layer] of manifest.layers.entries()) {
        expect((await readBlob(source, layer)).equals(wanted[i] ?? Buffer.alloc(0))).toBe(true);
      }
    }
    await using other = await openSource(`docker-archive:${file}:ex.org/name:v2`, temp.context);
    const error = await failureOf(other.root());
    expect([error.code, error.message.includes("there is ex.org/name:v1")]).toEqual(["ENOENT", true]);
  });

  /** An archive as old docker made it, by tar: layers behind symlinks, some compressed, two images. */
  function makeLegacy(dir: string): Buffer[] {
    const layers = ["bottom", "middle", "top"].map((name) => Buffer.from(name.repeat(500)));
    mkdirSync(join(dir, "in"));
    const write = (name: string, data: Uint8Array | string): void => writeFileSync(join(dir, "in", name), data);
    for (const [i, data] of layers.entries()) {
      mkdirSync(join(dir, "in", `id${i}`));
      write(`id${i}/layer.tar`, data);
    }
    run("gzip", ["in/id1/layer.tar"], dir);
    run("mv", ["in/id1/layer.tar.gz", "in/id1/layer.tar"], dir);
    mkdirSync(join(dir, "in", "id3"));
    symlinkSync("../id0/layer.tar", join(dir, "in", "id3", "layer.tar"));
    const diffs = [0, 1, 2].map(
      (i) =>
        `sha256:${createHash("sha256")
          .update(layers[i] ?? "")
          .digest("hex")}`,
    );
    const config = { os: "linux", architecture: "amd64", rootfs: { type: "layers", diff_ids: diffs } };
    write("config.json", JSON.stringify(config));
    const [a, b, c] = ["id3/layer.tar", "id1/layer.tar", "id2/layer.tar"];
    const row = { Config: "config.json", RepoTags: ["one:1", "docker.io/library/two:latest"], Layers: [a, b, c] };
    write(
      "manifest.json",
      JSON.stringify([row, { ...row, RepoTags: null }, { ...row, Config: "gone.json", RepoTags: ["bad:1"] }]),
    );
    run("tar", ["-cf", "../a.tar", "."], join(dir, "in"));
    return layers;
  }

  test("layers behind symlinks, compressed or not, have their real digests", async () => {
    using temp = scratch();
    const layers = makeLegacy(temp.dir);
    for (const name of ["one:1", "docker.io/library/one:1", "two", "@1"]) {
      await using source = await openSource(`docker-archive:${temp.dir}/a.tar:${name}`, temp.context);
      const manifest = await readManifest(source);
      expect(manifest.layers.map(({ mediaType }) => mediaType.split(".").at(-1))).toEqual(["tar", "gzip", "tar"]);
      const read = await Promise.all(manifest.layers.map((layer) => readBlob(source, layer)));
      expect([read[0], gunzipSync(read[1] ?? ""), read[2]].map(String)).toEqual(layers.map(String));
    }
  });

  test("several images and none named, a missing part, and a changed config are told apart", async () => {
    using temp = scratch();
    makeLegacy(temp.dir);
    const failing = async (name: string): Promise<NydusError> => {
      await using source = await openSource(`docker-archive:${temp.dir}/a.tar${name}`, temp.context);
      return await failureOf(source.root());
    };
    expect((await failing("")).message).toContain("there is one:1, docker.io/library/two:latest, @1, bad:1");
    expect((await failing(":@7")).code).toBe("ENOENT");
    expect((await failing(":bad:1")).message).toContain("gone.json");
    writeFileSync(join(temp.dir, "in", "config.json"), '{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}');
    run("tar", ["-cf", "../a.tar", "."], join(temp.dir, "in"));
    expect((await failing(":one:1")).code).toBe("EUCLEAN");
    const error = await failureOf(openTarget(`docker-archive:${temp.dir}/b.tar:x`, temp.context));
    expect(error.code).toBe("ENOTSUP");
  });
});
