import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NydusError } from "../../../../src/base/errors.ts";
import { heldCredential } from "../../../../src/content/registry/credential-files.ts";
import { SharedRegistries } from "../../../../src/content/registry/shared-registries.ts";
import { parseReference } from "../../../../src/format/oci/reference.ts";
import type { OpenedImage } from "../../../../src/operation/image/open.ts";
import { findUnpackedBootstrap, openBootstrapDir } from "../../../../src/operation/image/open-bootstrap-dir.ts";
import { sweepKeptMetas } from "../../../../src/operation/image/open-kept-meta.ts";
import type { BlobPlace } from "../../../../src/operation/image/open-places.ts";
import { type UnpackedImage, unpackImage } from "../../../kit/bootstrap-dir.ts";
import { type FakeRegistry, startFakeRegistry } from "../../../kit/fake-registry.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { mutate, Random } from "../../../kit/random.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const PLAIN = join(smallGolden(), "rafs", "v6-zstd-blake3-64k");
const BATCHED = join(smallGolden(), "rafs", "v6-batch-64k");

let dir: string;
let root: string;
let fake: FakeRegistry;
let registries: SharedRegistries;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "nydus-bootstrap-dir-"));
  root = join(dir, "state");
  fake = await startFakeRegistry();
  registries = new SharedRegistries(heldCredential(undefined));
});
afterEach(async () => {
  await registries[Symbol.asyncDispose]();
  await fake[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

function layerDir(name = "layer"): string {
  const path = join(dir, name);
  mkdirSync(path);
  return path;
}

/** The fake registry has the blobs of an image. */
function serve({ blobs }: UnpackedImage): void {
  for (const [id, bytes] of blobs) fake.blobs.set(`sha256:${id}`, bytes);
}

function placeAt({ host }: FakeRegistry, repository = "a/b"): BlobPlace {
  return { registry: { reference: parseReference(`${host}/${repository}:1`) } };
}

async function open(bootstrapDir: string, ...places: readonly BlobPlace[]): Promise<OpenedImage> {
  using file = findUnpackedBootstrap(bootstrapDir);
  return await openBootstrapDir(file, { bootstrapDir, places }, { root, registries });
}

async function openAs(bootstrapDir: string, sha256: string): Promise<OpenedImage> {
  using file = findUnpackedBootstrap(bootstrapDir);
  return await openBootstrapDir(file, { bootstrapDir, sha256, places: [] }, { root, registries });
}

async function openFailure(bootstrapDir: string): Promise<NydusError> {
  return await failureOf((async () => await open(bootstrapDir))());
}

/** The bytes of the first chunk as they are stored, checked against the blob. */
async function readsFirstChunk(image: OpenedImage, { blobs }: UnpackedImage): Promise<boolean> {
  const [device] = image.devices;
  if (device === undefined) return false;
  const { chunks, source, id } = device;
  const [start, length] = [chunks.blobOffset(0), chunks.blobSizeBytes(0)];
  const found = await source.readAt({ start, end: start + length });
  return Buffer.from(found).equals(blobs.get(id)?.subarray(start, start + length) as Buffer);
}

describe("an unpacked bootstrap", () => {
  test.each(["image/image.boot", "image.boot"])("is opened as %s, and nothing is asked of any place", async (name) => {
    const unpacked = unpackImage(PLAIN, layerDir(), name);
    serve(unpacked);
    await using image = await open(unpacked.dir, placeAt(fake));
    expect(image.devices.map(({ id }) => id).sort()).toEqual([...unpacked.blobs.keys()].sort());
    expect(fake.requests.length).toBe(0);
    expect(await readsFirstChunk(image, unpacked)).toBe(true);
    expect(fake.requests.length).toBe(1);
  });

  test("goes on when whoever unpacked it cuts or removes it", async () => {
    const unpacked = unpackImage(PLAIN, layerDir());
    await using image = await open(unpacked.dir);
    truncateSync(join(unpacked.dir, "image/image.boot"), 0);
    rmSync(unpacked.dir, { recursive: true });
    expect(Buffer.from(image.bootstrap).equals(readFileSync(join(PLAIN, "merged.boot")))).toBe(true);
    expect(readdirSync(join(root, "bootstraps"))).toEqual([]);
  });

  test("that is not what it was when it came is EBADMSG", async () => {
    const unpacked = unpackImage(PLAIN, layerDir());
    const path = join(unpacked.dir, "image/image.boot");
    const sha256 = new Bun.SHA256().update(readFileSync(path)).digest("hex");
    await (await openAs(unpacked.dir, sha256))[Symbol.asyncDispose]();
    const bytes = readFileSync(path);
    writeFileSync(path, bytes.fill(bytes.at(-1) === 1 ? 2 : 1, bytes.length - 1));
    const failure = await failureOf((async () => await openAs(unpacked.dir, sha256))());
    expect([failure.code, failure.at.path]).toEqual(["EBADMSG", path]);
  });

  test("that is not there is ENOENT", async () => {
    expect(await openFailure(layerDir())).toMatchObject({ code: "ENOENT" });
    expect(await openFailure(join(dir, "nowhere"))).toMatchObject({ code: "ENOENT" });
  });

  const boot = join(PLAIN, "merged.boot");
  const planted: readonly (readonly [string, (layer: string) => void])[] = [
    ["a symlink to a bootstrap elsewhere", (at) => symlinkSync(boot, join(at, "image", "image.boot"))],
    ["a symlink to one in the layer", (at) => plantInLayer(at)],
    ["a symlink to nothing", (at) => symlinkSync("/nowhere", join(at, "image", "image.boot"))],
    ["a directory", (at) => mkdirSync(join(at, "image", "image.boot"))],
    ["a fifo", (at) => void spawnSync("mkfifo", [join(at, "image", "image.boot")])],
    ["a device", (at) => void spawnSync("mknod", [join(at, "image", "image.boot"), "c", "1", "5"])],
    ["an empty file", (at) => writeFileSync(join(at, "image", "image.boot"), "")],
    ["a text", (at) => writeFileSync(join(at, "image", "image.boot"), "x".repeat(10_000))],
    [
      "a bootstrap that is cut",
      (at) => writeFileSync(join(at, "image", "image.boot"), readFileSync(boot).subarray(0, 70_000)),
    ],
    ["a file of 3 GiB of nothing", (at) => plantHole(at)],
  ];
  function plantInLayer(at: string): void {
    writeFileSync(join(at, "real"), readFileSync(boot));
    symlinkSync("../real", join(at, "image", "image.boot"));
  }
  function plantHole(at: string): void {
    writeFileSync(join(at, "image", "image.boot"), "");
    truncateSync(join(at, "image", "image.boot"), 3 * 2 ** 30);
  }

  test.each(planted)("%s in its place is EUCLEAN, also with a good one under the other name", async (_, plant) => {
    const layer = layerDir();
    mkdirSync(join(layer, "image"));
    writeFileSync(join(layer, "image.boot"), readFileSync(boot));
    plant(layer);
    expect(await openFailure(layer)).toMatchObject({ code: "EUCLEAN" });
    expect(existsSync(join(root, "bootstraps")) ? readdirSync(join(root, "bootstraps")) : []).toEqual([]);
  });

  test.each(["image", "."])("with a symlink for the directory %s is refused", async (name) => {
    const unpacked = unpackImage(PLAIN, layerDir("elsewhere"));
    const layer = join(dir, "layer");
    if (name === ".") symlinkSync(unpacked.dir, layer);
    else {
      mkdirSync(layer);
      symlinkSync(join(unpacked.dir, "image"), join(layer, "image"));
    }
    expect(["EUCLEAN", "ENOENT"]).toContain((await openFailure(layer)).code);
  });

  test("changed anywhere opens or fails as it should, never otherwise (seed 11)", async () => {
    const random = new Random(11);
    const unpacked = unpackImage(PLAIN, layerDir());
    const path = join(unpacked.dir, "image/image.boot");
    const good = readFileSync(path);
    for (let round = 0; round < 40; round++) {
      writeFileSync(path, mutate(good, random));
      const image = await open(unpacked.dir).catch((error: NydusError) => error);
      if ("rafs" in image) await image[Symbol.asyncDispose]();
      else
        expect([image.name, ["EUCLEAN", "ENOTSUP", "EINVAL"]]).toEqual([
          "NydusError",
          expect.arrayContaining([image.code]),
        ]);
    }
  }, 30_000);
});

describe("the meta of batched blobs", () => {
  test("is read from the blob once, and kept for the next time, when nobody has the blob", async () => {
    const unpacked = unpackImage(BATCHED, layerDir());
    serve(unpacked);
    await (await open(unpacked.dir, placeAt(fake)))[Symbol.asyncDispose]();
    expect(fake.requests.length).toBe(unpacked.blobs.size);
    fake.blobs.clear();
    await using image = await open(unpacked.dir, placeAt(fake));
    expect(fake.requests.length).toBe(unpacked.blobs.size);
    serve(unpacked);
    expect(await readsFirstChunk(image, unpacked)).toBe(true);
  });

  test("that was kept is another's where the blob is elsewhere: a registry could have made it up", async () => {
    const unpacked = unpackImage(BATCHED, layerDir());
    serve(unpacked);
    await (await open(unpacked.dir, placeAt(fake, "evil/b")))[Symbol.asyncDispose]();
    const asked = fake.requests.length;
    await (await open(unpacked.dir, placeAt(fake, "a/b")))[Symbol.asyncDispose]();
    expect(fake.requests.length).toBe(2 * asked);
  });

  test("that was kept and has been damaged is read anew", async () => {
    const unpacked = unpackImage(BATCHED, layerDir());
    serve(unpacked);
    await (await open(unpacked.dir, placeAt(fake)))[Symbol.asyncDispose]();
    const kept = readdirSync(join(root, "blob-metas")).map((name) => join(root, "blob-metas", name));
    for (const path of kept) {
      const bytes = readFileSync(path);
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1;
      writeFileSync(path, bytes);
    }
    fake.requests.length = 0;
    await using image = await open(unpacked.dir, placeAt(fake));
    expect(fake.requests.length).toBe(unpacked.blobs.size);
    expect(await readsFirstChunk(image, unpacked)).toBe(true);
  });

  test("is taken from beside the bootstrap first", async () => {
    const unpacked = unpackImage(BATCHED, layerDir());
    serve(unpacked);
    await (await open(unpacked.dir, placeAt(fake)))[Symbol.asyncDispose]();
    for (const name of readdirSync(join(root, "blob-metas"))) {
      const meta = readFileSync(join(root, "blob-metas", name)).subarray(32);
      writeFileSync(join(unpacked.dir, "image", `${name.slice(0, 64)}.blob.meta`), meta);
    }
    rmSync(join(root, "blob-metas"), { recursive: true });
    fake.requests.length = 0;
    await using image = await open(unpacked.dir, placeAt(fake));
    expect(fake.requests.length).toBe(0);
    expect(await readsFirstChunk(image, unpacked)).toBe(true);
  });

  test("is not taken through a symlink beside the bootstrap", async () => {
    const unpacked = unpackImage(BATCHED, layerDir());
    serve(unpacked);
    for (const id of unpacked.blobs.keys()) symlinkSync("/etc/passwd", join(unpacked.dir, "image", `${id}.blob.meta`));
    expect(await openFailure(unpacked.dir)).toMatchObject({ code: "EUCLEAN" });
  });

  test("is swept when its blob is not needed", async () => {
    const unpacked = unpackImage(BATCHED, layerDir());
    serve(unpacked);
    await (await open(unpacked.dir, placeAt(fake)))[Symbol.asyncDispose]();
    const [id = ""] = unpacked.blobs.keys();
    await sweepKeptMetas(root, new Set([id]));
    expect(readdirSync(join(root, "blob-metas")).map((name) => name.slice(0, 64))).toEqual([id]);
    await sweepKeptMetas(join(dir, "nothing"), new Set());
  });
});
