import { describe, expect, test } from "bun:test";
import type { NydusError } from "../../../../src/base/errors.ts";
import {
  MAX_LAYERS,
  parseIndex,
  parseManifest,
  parseManifestOrIndex,
  serializeIndex,
  serializeManifest,
} from "../../../../src/format/oci/manifest.ts";
import { layerFormat, MEDIA_TYPE } from "../../../../src/format/oci/media-type.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { goldenBlob, goldenImage } from "../../../kit/golden-layers.ts";

const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;
const encode = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
const config = { mediaType: MEDIA_TYPE.ociConfig, digest: digest("c"), size: 3 };
const layer = { mediaType: MEDIA_TYPE.ociLayerGzip, digest: digest("a"), size: 5 };
const manifest = { schemaVersion: 2, mediaType: MEDIA_TYPE.ociManifest, config, layers: [layer] };
const index = {
  schemaVersion: 2,
  mediaType: MEDIA_TYPE.ociIndex,
  manifests: [{ ...layer, mediaType: MEDIA_TYPE.ociManifest }],
};

function failure(document: unknown, mediaType?: string): NydusError {
  try {
    parseManifestOrIndex(document instanceof Uint8Array ? document : encode(document), mediaType);
  } catch (error) {
    return error as NydusError;
  }
  throw new Error("nothing was thrown");
}

describe("parseManifestOrIndex()", () => {
  test("tells manifest and index by their own media type, the given one, or their members", () => {
    const { mediaType: _, ...plain } = manifest;
    const { mediaType: __, ...plainIndex } = index;
    expect(parseManifestOrIndex(encode(manifest)).kind).toBe("manifest");
    expect(parseManifestOrIndex(encode(plain), MEDIA_TYPE.dockerManifest).kind).toBe("manifest");
    expect(parseManifestOrIndex(encode(plain), "application/json; charset=utf-8").kind).toBe("manifest");
    expect(parseManifestOrIndex(encode(plainIndex)).kind).toBe("index");
    expect(parseManifestOrIndex(encode({ ...plainIndex, manifests: [] }), MEDIA_TYPE.dockerList).kind).toBe("index");
  });

  test("keeps every member that the types have", () => {
    const full = {
      ...layer,
      urls: ["https://example.com/x"],
      annotations: { b: "2", a: "1", __proto__x: "3" },
      data: "aGVsbG8=",
      platform: { architecture: "arm", os: "linux", "os.version": "1", "os.features": ["f"], variant: "v7" },
      artifactType: "a/b",
    };
    const document = { ...manifest, artifactType: "x/y", layers: [full], subject: layer, annotations: { k: "v" } };
    const parsed = parseManifest(encode(document));
    expect(parsed).toEqual(document as unknown as typeof parsed);
    expect(JSON.parse(new TextDecoder().decode(serializeManifest(parsed)))).toEqual(document);
  });

  test.each([
    ["not JSON", "{"],
    ["a list", []],
    ["a byte order mark", "\ufeff{}"],
    ["bytes that are not UTF-8", Uint8Array.of(0x22, 0xff, 0x22)],
    ["deep nesting", "[".repeat(200_000)],
    ["no schema version", { ...manifest, schemaVersion: undefined }],
    ["both layers and manifests", { ...manifest, manifests: [] }],
    ["an index with layers", { ...index, layers: [] }],
    ["no layers", { ...manifest, layers: undefined }],
    ["layers that are no list", { ...manifest, layers: {} }],
    ["too many layers", { ...manifest, layers: Array(MAX_LAYERS + 1).fill(layer) }],
    ["no config", { ...manifest, config: null }],
    ["a negative size", { ...manifest, layers: [{ ...layer, size: -1 }] }],
    ["a size of 2^53", { ...manifest, layers: [{ ...layer, size: 2 ** 53 }] }],
    ["a size as text", { ...manifest, layers: [{ ...layer, size: "5" }] }],
    ["a fractional size", { ...manifest, layers: [{ ...layer, size: 1.5 }] }],
    ["a digest with a path in it", { ...manifest, layers: [{ ...layer, digest: "sha256:../../etc" }] }],
    ["an upper-case digest", { ...manifest, layers: [{ ...layer, digest: digest("A") }] }],
    ["no digest", { ...manifest, layers: [{ ...layer, digest: undefined }] }],
    ["a media type that is no text", { ...manifest, layers: [{ ...layer, mediaType: 1 }] }],
    ["an annotation that is no text", { ...manifest, annotations: { a: 1 } }],
    ["the media type of a layer", { ...manifest, mediaType: MEDIA_TYPE.ociLayer }],
  ])("refuses %s", (_, document) => {
    expect(failure(document).code).toBe("EUCLEAN");
  });

  test("says which member is wrong", () => {
    const error = failure({ ...manifest, layers: [layer, { ...layer, size: -7 }] });
    expect(error.message).toBe("Cannot parse manifest: layers[1].size is -7, an integer from 0 to 2^53-1 wanted");
  });

  test("refuses a document that is not what its descriptor says", () => {
    expect(failure(manifest, MEDIA_TYPE.ociIndex).code).toBe("EUCLEAN");
    expect(failure(index, MEDIA_TYPE.ociManifest).code).toBe("EUCLEAN");
  });

  test("says that schema 1 and other digests are not supported", () => {
    expect(failure({ schemaVersion: 1, name: "x" }).code).toBe("ENOTSUP");
    expect(failure(manifest, "application/vnd.docker.distribution.manifest.v1+prettyjws").code).toBe("ENOTSUP");
    expect(failure({ ...manifest, config: { ...config, digest: `sha512:${"a".repeat(128)}` } }).code).toBe("ENOTSUP");
  });

  test("parseManifest() and parseIndex() each refuse the other", () => {
    expect(() => parseManifest(encode(index))).toThrow("a manifest wanted");
    expect(() => parseIndex(encode(manifest))).toThrow("an index wanted");
  });
});

describe("serialising", () => {
  test("puts members and annotations in one order, whatever order they came in", () => {
    const shuffled = {
      annotations: { b: "2", a: "1" },
      layers: [{ size: 5, digest: digest("a"), mediaType: layer.mediaType }],
      config,
      mediaType: manifest.mediaType,
      schemaVersion: 2,
    };
    const text = new TextDecoder().decode(serializeManifest(parseManifest(encode(shuffled))));
    expect(text).toBe(
      `{"schemaVersion":2,"mediaType":"${MEDIA_TYPE.ociManifest}","config":${JSON.stringify(config)},"layers":[${JSON.stringify(layer)}],"annotations":{"a":"1","b":"2"}}`,
    );
    expect(parseIndex(serializeIndex(parseIndex(encode(index))))).toEqual(parseIndex(encode(index)));
  });

  test.each(["estargz", "zstd", "nerdctl-nydus"])("gives Go's own bytes of the golden manifest %s", (ref) => {
    const descriptor = goldenImage(smallGolden(), ref);
    const bytes = goldenBlob(smallGolden(), descriptor);
    expect(new TextDecoder().decode(serializeManifest(parseManifest(bytes, descriptor.mediaType)))).toBe(
      new TextDecoder().decode(bytes),
    );
  });
});

describe("layerFormat()", () => {
  test.each([
    ["application/vnd.oci.image.layer.v1.tar", "none"],
    ["application/vnd.oci.image.layer.v1.tar+gzip", "gzip"],
    ["application/vnd.oci.image.layer.v1.tar+zstd", "zstd"],
    ["application/vnd.docker.image.rootfs.diff.tar", "none"],
    ["application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"],
    ["application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"],
  ] as const)("%s is %s", (mediaType, format) => {
    expect(layerFormat(mediaType)).toBe(format);
  });

  test.each([
    ["application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "nondistributable"],
    ["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "nondistributable"],
    ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"],
    ["application/vnd.oci.image.config.v1+json", "not a tar layer"],
    ["text/plain", "not a tar layer"],
  ])("refuses %s: it is %s", (mediaType, why) => {
    expect(() => layerFormat(mediaType)).toThrow(why);
  });
});
