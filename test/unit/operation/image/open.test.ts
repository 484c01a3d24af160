import { describe, expect, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { NydusError } from "../../../../src/base/errors.ts";
import { parseManifest } from "../../../../src/format/oci/manifest.ts";
import { writeTar } from "../../../../src/format/tar/writer.ts";
import { openBootstrap, openDeviceCaches, openImage } from "../../../../src/operation/image/open.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { fullGolden, smallGolden } from "../../../kit/golden.ts";
import { OciDraft } from "../../../kit/oci-image.ts";
import { mutate, Random } from "../../../kit/random.ts";
import { failureOf } from "../../../suite/byte-source.ts";

function scratch(): { dir: string; root: string } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), "nydus-open-"));
  return { dir, root: join(dir, "state"), [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}

const IMAGES = join(smallGolden(), "images");

function goldenManifest(ref: string): ReturnType<typeof parseManifest> {
  const index = JSON.parse(readFileSync(join(IMAGES, "index.json"), "utf8"));
  const entry = index.manifests.find(
    (one: { annotations: Record<string, string> }) => one.annotations["org.opencontainers.image.ref.name"] === ref,
  );
  return parseManifest(readFileSync(join(IMAGES, "blobs", "sha256", entry.digest.slice(7))));
}

/** The bootstrap and the blob metas of a golden image, by tar(1)'s layout of the layer. */
function goldenBootstrap(ref: string): Uint8Array {
  const layer = goldenManifest(ref).layers.at(-1);
  const tar = gunzipSync(readFileSync(join(IMAGES, "blobs", "sha256", layer?.digest.slice(7) ?? "")));
  const at = tar.indexOf("image/image.boot");
  const size = Number.parseInt(tar.subarray(at + 124, at + 135).toString(), 8);
  return tar.subarray(at + 512, at + 512 + size);
}

interface Member {
  readonly name: string;
  readonly content: Uint8Array;
}

async function packLayer(members: readonly Member[]): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  const path = (name: string): Uint8Array => new TextEncoder().encode(name);
  const entries = members.map(({ name, content }) => ({
    path: path(name),
    type: "file" as const,
    mode: 0o444,
    sizeBytes: content.length,
    content: [content],
  }));
  for await (const piece of writeTar(entries)) pieces.push(piece);
  return gzipSync(Buffer.concat(pieces));
}

/** A layout with the golden blobs and a bootstrap layer of ours. */
async function makeImage(dir: string, members: readonly Member[], annotated = true): Promise<string> {
  const draft = new OciDraft(join(dir, "image"));
  const golden = goldenManifest("nydus");
  for (const layer of golden.layers.slice(0, -1)) {
    draft.addBlob(layer.mediaType, readFileSync(join(IMAGES, "blobs", "sha256", layer.digest.slice(7))));
  }
  const type = "application/vnd.oci.image.layer.v1.tar+gzip";
  const annotations = { "containerd.io/snapshot/nydus-bootstrap": "true" };
  const layer = { ...draft.addBlob(type, await packLayer(members)), ...(annotated ? { annotations } : {}) };
  const config = draft.addBlob("application/vnd.oci.image.config.v1+json", '{"os":"linux","architecture":"amd64"}');
  const layers = [...golden.layers.slice(0, -1), layer];
  const manifest = { schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config, layers };
  const top = draft.addJson(manifest.mediaType, manifest);
  writeFileSync(join(dir, "image", "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [top] }));
  return `oci:${dir}/image`;
}

async function openFailure(name: string, root: string): Promise<NydusError> {
  return await failureOf(
    openImage(name, { root }).then(async (image) => {
      await image[Symbol.asyncDispose]();
    }),
  );
}

describe("openImage()", () => {
  test.each(["nydus", "nerdctl-nydus"])(
    "finds the bootstrap and each device's blob of the golden image %s",
    async (ref) => {
      using temp = scratch();
      await using image = await openImage(`oci:${IMAGES}:${ref}`, { root: temp.root });
      expect(Buffer.from(image.bootstrap).equals(goldenBootstrap(ref))).toBe(true);
      expect(readFileSync(image.bootstrapPath).equals(goldenBootstrap(ref))).toBe(true);
      expect(image.devices.map(({ id }) => id)).toEqual(image.rafs.blobs.map(({ id }) => id));
      expect(image.devices.map(({ source }) => source.sizeBytes)).toEqual(
        image.devices.map(
          ({ digest }) => goldenManifest(ref).layers.find((layer) => layer.digest === digest)?.size ?? -1,
        ),
      );
      const config = JSON.parse(Buffer.from((await image.documents?.readConfig()) ?? []).toString());
      expect(config.rootfs.type).toBe("layers");
    },
  );

  test("needs the bootstrap layer once: then the state directory has it, and damage there is mended", async () => {
    using temp = scratch();
    cpSync(IMAGES, join(temp.dir, "images"), { recursive: true });
    const name = `oci:${temp.dir}/images:nydus`;
    const open = async (): Promise<string> => {
      await using image = await openImage(name, { root: temp.root });
      expect(Buffer.from(image.bootstrap).equals(goldenBootstrap("nydus"))).toBe(true);
      return image.bootstrapPath;
    };
    const path = await open();
    writeFileSync(
      path,
      readFileSync(path).map((byte, i) => (i === 5000 ? byte ^ 1 : byte)),
    );
    await open();
    truncateSync(path, 100);
    await open();
    rmSync(path);
    await open();
    const digest = goldenManifest("nydus").layers.at(-1)?.digest ?? "";
    rmSync(join(temp.dir, "images", "blobs", "sha256", digest.slice(7)));
    await open();
    expect(readdirSync(join(temp.root, "bootstraps"))).toEqual([digest.slice(7)]);
  });

  test("opened by many at once unpacks right", async () => {
    using temp = scratch();
    await Promise.all(
      Array.from({ length: 6 }, async () => {
        await using image = await openImage(`oci:${IMAGES}:nydus`, { root: temp.root });
        expect(Buffer.from(image.bootstrap).equals(goldenBootstrap("nydus"))).toBe(true);
      }),
    );
    expect(readdirSync(join(temp.root, "bootstraps")).length).toBe(1);
  });

  test.each<[string, string, ...string[]]>([
    ["oci", "EINVAL", "a plain OCI image", "nydus convert"],
    ["estargz", "EINVAL", "a plain OCI image", ""],
    ["nydus-v5", "ENOTSUP", "RAFS v5", ""],
    ["nydus-zran", "ENOTSUP", "zran", ""],
    ["none", "ENOENT", "no image", "nerdctl-nydus"],
  ])("says why it cannot open the golden image %s", async (ref, code, ...says) => {
    using temp = scratch();
    const error = await openFailure(`oci:${IMAGES}:${ref}`, temp.root);
    expect(error.code as string).toBe(code);
    for (const words of says) expect(error.message).toContain(words);
  });

  test("takes an old layer's image.boot at the top and passes over what it does not know", async () => {
    using temp = scratch();
    const boot = { name: "image.boot", content: goldenBootstrap("nydus") };
    const name = await makeImage(temp.dir, [{ name: "image/backend.json", content: new Uint8Array(5) }, boot]);
    await using image = await openImage(name, { root: temp.root });
    expect(image.devices.length).toBe(3);
    expect(readdirSync(join(image.bootstrapPath, "..")).sort()).toEqual(["files.json", "image.boot"]);
  });

  test("keeps blob metas under the blob's name, and nothing outside of its directory", async () => {
    using temp = scratch();
    const boot = { name: "image/image.boot", content: goldenBootstrap("nydus") };
    const meta = (name: string): Member => ({ name, content: new Uint8Array(4096) });
    const id = "a".repeat(64);
    const names = [
      `image/${id}.blob.meta`,
      `image/../../${"b".repeat(64)}.blob.meta`,
      "image/x.blob.meta",
      "../../evil",
    ];
    const name = await makeImage(temp.dir, [...names.map(meta), boot]);
    await using image = await openImage(name, { root: temp.root });
    const dir = join(image.bootstrapPath, "..");
    expect(readdirSync(dir).sort()).toEqual([
      `${id}.blob.meta`,
      `${"b".repeat(64)}.blob.meta`,
      "files.json",
      "image.boot",
    ]);
    expect(readdirSync(temp.dir).sort()).toEqual(["image", "state"]);
  });

  const boot = goldenBootstrap("nydus");
  test.each<[string, readonly Member[], boolean, string]>([
    ["without a bootstrap", [{ name: "image/other", content: boot }], true, "EUCLEAN"],
    [
      "with two",
      [
        { name: "image/image.boot", content: boot },
        { name: "image.boot", content: boot },
      ],
      true,
      "EUCLEAN",
    ],
    ["of nothing", [{ name: "image/image.boot", content: new Uint8Array(0) }], true, "EUCLEAN"],
    ["not annotated", [{ name: "image/image.boot", content: boot }], false, "EINVAL"],
  ])("refuses a bootstrap layer %s", async (_what, members, annotated, code) => {
    using temp = scratch();
    const error = await openFailure(await makeImage(temp.dir, members, annotated), temp.root);
    expect(error.code as string).toBe(code);
  });

  test("refuses an image whose manifest lacks a blob of the bootstrap, naming it", async () => {
    using temp = scratch();
    const name = await makeImage(temp.dir, [{ name: "image/image.boot", content: boot }]);
    const index = JSON.parse(readFileSync(join(temp.dir, "image", "index.json"), "utf8"));
    const manifest = JSON.parse(
      readFileSync(join(temp.dir, "image/blobs/sha256", index.manifests[0].digest.slice(7)), "utf8"),
    );
    const [gone] = manifest.layers.splice(0, 1);
    const draft = new OciDraft(join(temp.dir, "image"));
    const top = draft.addJson(manifest.mediaType, manifest);
    writeFileSync(join(temp.dir, "image", "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [top] }));
    const error = await openFailure(name, temp.root);
    expect([error.code as string, error.at.digest]).toEqual(["ENOENT", gone.digest]);
  });

  test("a damaged bootstrap layer ends in a NydusError, and nothing of it stays (seed 3)", async () => {
    using temp = scratch();
    const golden = goldenManifest("nydus").layers.at(-1);
    const layer = readFileSync(join(IMAGES, "blobs", "sha256", golden?.digest.slice(7) ?? ""));
    const random = new Random(3);
    for (let i = 0; i < 40; i++) {
      const dir = join(temp.dir, String(i));
      const draft = new OciDraft(join(dir, "image"));
      // Half of them with a digest that fits, so that the damage reaches gunzip and tar.
      const bytes = mutate(layer, random);
      const content = i % 2 === 0 ? bytes : gzipSync(mutate(gunzipSync(layer), random));
      const annotations = { "containerd.io/snapshot/nydus-bootstrap": "true" };
      const described = { ...draft.addBlob("application/vnd.oci.image.layer.v1.tar+gzip", content), annotations };
      const config = draft.addBlob("application/vnd.oci.image.config.v1+json", "{}");
      const manifest = draft.addJson("application/vnd.oci.image.manifest.v1+json", {
        schemaVersion: 2,
        config,
        layers: [described],
      });
      writeFileSync(join(dir, "image", "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
      if (i % 4 === 0) writeFileSync(draft.blobPath(described.digest), layer); // the digest is of other bytes
      const error = await openFailure(`oci:${dir}/image`, join(dir, "state"));
      expect(error).toBeInstanceOf(NydusError);
      const left = readdirSync(join(dir, "state", "bootstraps")).filter((name) => name.startsWith("."));
      expect(left).toEqual([]);
    }
  });
});

describe("openBootstrap() and openDeviceCaches()", () => {
  test.each(["v6-zstd-blake3-64k", "v6-lz4-sha256-4k", "v6-batch-64k"])(
    "fill the devices of golden %s",
    async (variant) => {
      using temp = scratch();
      const dir = join(smallGolden(), "rafs", variant);
      await using pool = openCodecPool({ threads: 1 });
      await using image = await openBootstrap(join(dir, "merged.boot"), { blobDir: join(dir, "blobs") });
      expect(image.devices.length).toBe(3);
      const caches = await openDeviceCaches(image, { root: temp.root, pool });
      for (const cache of caches) {
        await cache.ensure({ start: 0, end: Math.ceil(cache.sizeBytes / 4096) * 4096 }, { why: "prefetch" });
        expect(cache.stats.chunksFilled).toBe(cache.chunks.count);
        readSync(cache.fd, new Uint8Array(1), 0, 1, 0);
        await cache.close();
      }
    },
  );

  test("name the blob that the directory lacks, and release what was opened", async () => {
    using temp = scratch();
    const dir = join(smallGolden(), "rafs", "v6-zstd-blake3-64k");
    mkdirSync(join(temp.dir, "blobs"));
    const fds = readdirSync("/proc/self/fd").length;
    for (const name of readdirSync(join(dir, "blobs")).slice(0, 2))
      cpSync(join(dir, "blobs", name), join(temp.dir, "blobs", name));
    const error = await failureOf(openBootstrap(join(dir, "merged.boot"), { blobDir: join(temp.dir, "blobs") }));
    expect(error.code).toBe("ENOENT");
    expect(readdirSync(join(dir, "blobs")).some((name) => error.at.digest === `sha256:${name}`)).toBe(true);
    expect(readdirSync("/proc/self/fd").length).toBe(fds);
    expect((await failureOf(openBootstrap(join(temp.dir, "none"), { blobDir: temp.dir }))).code).toBe("ENOENT");
  });

  test.skipIf(fullGolden() === undefined)(
    "read the batches of the full golden set by the blobs' own meta",
    async () => {
      using temp = scratch();
      const dir = join(fullGolden() ?? "", "rafs", "v6-batch");
      await using pool = openCodecPool({ threads: 1 });
      await using image = await openBootstrap(join(dir, "merged.boot"), { blobDir: join(dir, "blobs") });
      for (const cache of await openDeviceCaches(image, { root: temp.root, pool })) {
        await cache.ensure({ start: 0, end: Math.ceil(cache.sizeBytes / 4096) * 4096 }, { why: "prefetch" });
        expect(cache.isReady({ start: 0, end: cache.sizeBytes })).toBe(true);
        await cache.close();
      }
    },
  );
});
