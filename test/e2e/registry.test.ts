import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSource, openTarget } from "../../src/content/store/open-store.ts";
import { canStream } from "../../src/content/store/source.ts";
import { parseManifest } from "../../src/format/oci/manifest.ts";
import { openDeviceCaches, openImage } from "../../src/operation/image/open.ts";
import { openCodecPool } from "../../src/os/codec-threads.ts";
import { type DockerRegistry, hasDockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { smallGolden } from "../kit/golden.ts";
import { Random } from "../kit/random.ts";
import { byteSourceSuite } from "../suite/byte-source.ts";
import { expectImage, imageStoreSuite, sampleImage, sha256, writeImage } from "../suite/image-store.ts";

const hasSkopeo = spawnSync("skopeo", ["--version"]).status === 0;
const NO_STATE = { root: "/nonexistent" };

describe.skipIf(!hasDockerRegistry)("Debian's docker-registry", () => {
  let registry: DockerRegistry;
  let state = "";
  let serial = 0;

  beforeAll(async () => {
    registry = await startDockerRegistry();
    state = mkdtempSync(join(tmpdir(), "nydus-e2e-registry-"));
  });
  afterAll(async () => {
    await registry[Symbol.asyncDispose]();
    rmSync(state, { recursive: true, force: true });
  });

  imageStoreSuite("it", async () => {
    const repository = `suite-${serial++}`;
    const name = (reference: string): string => `docker://${registry.host}/${repository}:${reference}`;
    return {
      source: (reference) => openSource(name(reference), NO_STATE),
      target: (reference) => openTarget(name(reference), { root: state }),
      [Symbol.asyncDispose]: async () => expect(readdirSync(join(state, "tmp"))).toEqual([]),
    };
  });

  byteSourceSuite("its blob", async (bytes) => {
    const name = `docker://${registry.host}/blob-${serial++}:x`;
    const image = sampleImage("blob", bytes);
    await using target = await openTarget(name, { root: state });
    await writeImage(target, image);
    const store = await openSource(name, NO_STATE);
    const source = await store.openBlob(image.layer);
    return { source, bytes, [Symbol.asyncDispose]: () => store[Symbol.asyncDispose]() };
  });

  test("takes and gives a blob of 40 MiB", async () => {
    const name = `docker://${registry.host}/large:x`;
    const block = new Random(1).bytes(1 << 20);
    const large = Buffer.concat(Array.from({ length: 40 }, (_, i) => Buffer.from(block).fill(i, 0, 100)));
    const image = sampleImage("large", large);
    await using target = await openTarget(name, { root: state });
    await writeImage(target, image);
    await using source = await openSource(name, NO_STATE);
    const blob = await source.openBlob(image.layer);
    if (!canStream(blob)) throw new Error("it does not stream");
    const pieces: Uint8Array[] = [];
    for await (const piece of blob.stream()) pieces.push(piece.slice());
    expect(sha256(Buffer.concat(pieces))).toBe(image.layer.digest);
  });

  test.skipIf(!hasSkopeo)("gives what skopeo pushed, and skopeo what we pushed", async () => {
    const skopeo = (...args: string[]): Buffer => {
      const done = spawnSync("skopeo", args, { maxBuffer: 64 << 20 });
      expect([done.status, done.stderr.toString()]).toEqual([0, ""]);
      return done.stdout;
    };
    const ours = sampleImage("ours");
    await using target = await openTarget(`${registry.host}/ours:1`, { root: state });
    await writeImage(target, ours);
    expect(
      skopeo("inspect", "--tls-verify=false", "--raw", `docker://${registry.host}/ours:1`).equals(ours.manifest),
    ).toBe(true);
    const from = `oci:${smallGolden()}/images:oci`;
    skopeo("copy", "-q", "--dest-tls-verify=false", from, `docker://${registry.host}/theirs:1`);
    await using source = await openSource(`${registry.host}/theirs:1`, NO_STATE);
    const { descriptor, bytes } = await source.root();
    const manifest = parseManifest(bytes, descriptor.mediaType);
    for (const layer of manifest.layers) {
      const blob = await source.openBlob(layer);
      expect(sha256(await blob.readAt({ start: 0, end: blob.sizeBytes }))).toBe(layer.digest);
    }
    await using image = await openSource(`${registry.host}/ours:1`, NO_STATE);
    await expectImage(image, ours);
  });

  test.skipIf(!hasSkopeo)("serves a Nydus image lazily: the device's bytes are those from a directory", async () => {
    const from = `oci:${smallGolden()}/images:nydus`;
    const pushed = spawnSync("skopeo", [
      "copy",
      "-q",
      "--dest-tls-verify=false",
      from,
      `docker://${registry.host}/n:1`,
    ]);
    expect([pushed.status, pushed.stderr.toString()]).toEqual([0, ""]);
    await using pool = openCodecPool({ threads: 1 });
    const devices: Buffer[][] = [];
    for (const [i, name] of [from, `${registry.host}/n:1`].entries()) {
      const root = join(state, `lazy-${i}`);
      await using image = await openImage(name, { root });
      const caches = await openDeviceCaches(image, { root, pool });
      devices.push([]);
      for (const cache of caches) {
        const bytes = Buffer.alloc(cache.sizeBytes);
        const { count, deviceOffset, sizeBytes } = cache.chunks;
        for (let chunk = 0; chunk < count; chunk += 7) {
          const range = { start: deviceOffset(chunk), end: deviceOffset(chunk) + sizeBytes(chunk) };
          await cache.ensure(range);
          readSync(cache.fd, bytes, range.start, sizeBytes(chunk), range.start);
        }
        expect(cache.stats.demandBytes).toBeGreaterThan(0);
        devices[i]?.push(bytes);
        await cache.close();
      }
    }
    expect(devices[0]?.length).toBeGreaterThan(0);
    expect(devices[1]).toEqual(devices[0] as Buffer[]);
  });
});
