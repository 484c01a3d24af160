import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { type Digest, parseDigest } from "../../src/base/digest.ts";
import type { ImageSource, ImageTarget } from "../../src/content/store/store.ts";
import { type Descriptor, parseManifest, serializeManifest } from "../../src/format/oci/manifest.ts";
import { MEDIA_TYPE } from "../../src/format/oci/media-type.ts";
import { failureOf } from "./byte-source.ts";

/** The descriptor of bytes. */
export function describeBytes(bytes: Uint8Array, mediaType: string): Descriptor {
  return { mediaType, digest: sha256(bytes), size: bytes.length };
}

/** The digest of bytes, by the runtime. */
export function sha256(bytes: Uint8Array): Digest {
  return parseDigest(`sha256:${createHash("sha256").update(bytes).digest("hex")}`);
}

/** An image of one layer. */
export interface SampleImage {
  readonly root: Descriptor;
  readonly manifest: Uint8Array;
  readonly config: Descriptor;
  readonly configBytes: Uint8Array;
  readonly layer: Descriptor;
  readonly layerBytes: Uint8Array;
}

/** A small image whose bytes depend on `label`. */
export function sampleImage(
  label: string,
  layerBytes: Uint8Array = new TextEncoder().encode(`layer of ${label}`.repeat(999)),
): SampleImage {
  const configBytes = new TextEncoder().encode(JSON.stringify({ os: "linux", architecture: "amd64", label }));
  const config = describeBytes(configBytes, MEDIA_TYPE.ociConfig);
  const layer = describeBytes(layerBytes, MEDIA_TYPE.ociLayer);
  const mediaType = MEDIA_TYPE.ociManifest;
  const manifest = serializeManifest({ schemaVersion: 2, mediaType, config, layers: [layer] });
  return { root: describeBytes(manifest, mediaType), manifest, config, configBytes, layer, layerBytes };
}

/** Writes an image as the conversion does: blobs, config, then the name. */
export async function writeImage(target: ImageTarget, image: SampleImage): Promise<void> {
  if (!(await target.hasBlob(image.layer))) {
    await using sink = await target.newBlob();
    for (let at = 0; at < image.layerBytes.length; at += 7000) await sink.write(image.layerBytes.slice(at, at + 7000));
    await sink.commit(image.layer.digest, image.layerBytes.length);
  }
  await target.putBytes(image.config, image.configBytes);
  await target.commit(image.root, image.manifest);
}

/** A store under test: places of one collection that images have names in. */
export interface StoreCase extends AsyncDisposable {
  source(reference: string): Promise<ImageSource>;
  target(reference: string): Promise<ImageTarget>;
}

/** Checks that a source gives exactly an image. */
export async function expectImage(source: ImageSource, image: SampleImage): Promise<void> {
  const { descriptor, bytes } = await source.root();
  expect(descriptor.digest).toBe(image.root.digest);
  expect(descriptor.mediaType).toBe(image.root.mediaType);
  expect(Buffer.from(bytes).equals(image.manifest)).toBe(true);
  const manifest = parseManifest(bytes, descriptor.mediaType);
  expect(Buffer.from(await source.readBlob(manifest.config)).equals(image.configBytes)).toBe(true);
  const blob = await source.openBlob(image.layer);
  const read = await blob.readAt({ start: 0, end: blob.sizeBytes });
  await blob.close();
  expect(Buffer.from(read).equals(image.layerBytes)).toBe(true);
}

/** Every pair of ImageSource and ImageTarget runs this. */
export function imageStoreSuite(title: string, make: () => Promise<StoreCase>): void {
  describe(`${title} as image store`, () => {
    test("an image written is the image read", async () => {
      await using store = await make();
      const image = sampleImage("one");
      await using target = await store.target("one");
      await writeImage(target, image);
      await using source = await store.source("one");
      await expectImage(source, image);
    });
    test("an image has no name before commit, nor after a target is left without one", async () => {
      await using store = await make();
      const image = sampleImage("never");
      {
        await using target = await store.target("never");
        await target.putBytes(image.config, image.configBytes);
        await using source = await store.source("never").catch(() => undefined);
        if (source !== undefined) expect((await failureOf(source.root())).code).toBe("ENOENT");
      }
      await using source = await store.source("never").catch(() => undefined);
      if (source !== undefined) expect((await failureOf(source.root())).code).toBe("ENOENT");
    });
    test("a sink left without commit leaves no blob", async () => {
      await using store = await make();
      const image = sampleImage("sink");
      await using target = await store.target("sink");
      {
        await using sink = await target.newBlob();
        await sink.write(image.layerBytes);
      }
      expect(await target.hasBlob(image.layer)).toBe(false);
    });
    test("commit() of a blob refuses a size that was not written", async () => {
      await using store = await make();
      const image = sampleImage("size");
      await using target = await store.target("size");
      await using sink = await target.newBlob();
      await sink.write(image.layerBytes.slice(1));
      expect((await failureOf(sink.commit(image.layer.digest, image.layerBytes.length))).code).toBe("EFAULT");
    });
    test("putBytes() refuses bytes of another digest with EBADMSG", async () => {
      await using store = await make();
      const image = sampleImage("put");
      await using target = await store.target("put");
      const other = image.configBytes.map((byte) => byte ^ 1);
      expect((await failureOf(target.putBytes(image.config, other))).code).toBe("EBADMSG");
    });
    test("hasBlob() sees a blob once it is committed", async () => {
      await using store = await make();
      const image = sampleImage("has");
      await using target = await store.target("has");
      expect(await target.hasBlob(image.layer)).toBe(false);
      await using sink = await target.newBlob();
      await sink.write(image.layerBytes);
      await sink.commit(image.layer.digest, image.layerBytes.length);
      expect(await target.hasBlob(image.layer)).toBe(true);
    });
    test("openBlob() and readBlob() refuse a digest that is none before they ask anyone", async () => {
      await using store = await make();
      await using target = await store.target("bad");
      await writeImage(target, sampleImage("bad"));
      await using source = await store.source("bad");
      const digest = "sha256:../../../etc/passwd" as Digest;
      expect((await failureOf(source.openBlob({ digest, size: 3 }))).code).toBe("EINVAL");
      expect((await failureOf(source.readBlob({ digest, size: 3, mediaType: "x" }))).code).toBe("EINVAL");
    });
    test("readBlob() refuses content above the limit and content that is not there", async () => {
      await using store = await make();
      const image = sampleImage("limit");
      await using target = await store.target("limit");
      await writeImage(target, image);
      await using source = await store.source("limit");
      expect((await failureOf(source.readBlob(image.layer, 100))).code).toBe("EUCLEAN");
      const missing = describeBytes(new TextEncoder().encode("missing"), "x");
      expect((await failureOf(source.readBlob(missing))).code).toBe("ENOENT");
    });
  });
}
