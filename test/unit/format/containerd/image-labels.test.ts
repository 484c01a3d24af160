import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { type Digest, digestOfHex } from "../../../../src/base/digest.ts";
import {
  chainIds,
  childLabels,
  distributionSource,
  isLayerType,
  snapshotLabels,
} from "../../../../src/format/containerd/image-labels.ts";
import type { Descriptor, Manifest } from "../../../../src/format/oci/manifest.ts";
import { MEDIA_TYPE } from "../../../../src/format/oci/media-type.ts";

const digest = (n: number): Digest => digestOfHex(n.toString(16).padStart(64, "0"));
const of = (mediaType: string, n: number, more: Partial<Descriptor> = {}): Descriptor => ({
  ...{ mediaType, digest: digest(n), size: n },
  ...more,
});
const sha256 = (text: string): Digest => digestOfHex(createHash("sha256").update(text).digest("hex"));
const manifestOf = (config: Descriptor, layers: readonly Descriptor[]): Manifest => ({
  ...{ schemaVersion: 2, config, layers },
});

describe("childLabels()", () => {
  test("numbers layers, Nydus blobs among them, and names the config", () => {
    const layers = [of(MEDIA_TYPE.nydusBlob, 2), of(MEDIA_TYPE.ociLayerGzip, 3)];
    const manifest = manifestOf(of(MEDIA_TYPE.ociConfig, 1), layers);
    expect(childLabels({ kind: "manifest", manifest })).toEqual({
      "containerd.io/gc.ref.content.config": digest(1),
      "containerd.io/gc.ref.content.l.0": digest(2),
      "containerd.io/gc.ref.content.l.1": digest(3),
    });
  });
  test("numbers the manifests of an index", () => {
    const manifests = [of(MEDIA_TYPE.ociManifest, 1), of(MEDIA_TYPE.dockerManifest, 2), of(MEDIA_TYPE.ociManifest, 3)];
    expect(childLabels({ kind: "index", index: { schemaVersion: 2, manifests } })).toEqual({
      "containerd.io/gc.ref.content.m.0": digest(1),
      "containerd.io/gc.ref.content.m.1": digest(2),
      "containerd.io/gc.ref.content.m.2": digest(3),
    });
  });
  test("numbers what containerd does not know by itself", () => {
    const manifest = manifestOf(of(MEDIA_TYPE.nydusConfig, 1), [of("application/x-thing", 2), of("text/plain", 3)]);
    expect(childLabels({ kind: "manifest", manifest })).toEqual({
      "containerd.io/gc.ref.content.0": digest(1),
      "containerd.io/gc.ref.content.1": digest(2),
      "containerd.io/gc.ref.content.2": digest(3),
    });
  });
});

test.each([
  [MEDIA_TYPE.nydusBlob, true],
  ["application/vnd.oci.image.layer.v1.tar+encrypted", true],
  [MEDIA_TYPE.dockerLayerGzip, true],
  ["application/vnd.docker.image.rootfs.foreign.diff.tar", true],
  [MEDIA_TYPE.ociConfig, false],
])("isLayerType(%p) is %p, as in containerd", (mediaType, expected) => {
  expect(isLayerType(mediaType)).toBe(expected);
});

describe("chainIds()", () => {
  test("hashes each diff id onto the chain below it (opencontainers/image-spec identity tests)", () => {
    const diffIds = [digest(0xa), digest(0xb), digest(0xc)];
    const second = sha256(`${digest(0xa)} ${digest(0xb)}`);
    expect(chainIds(diffIds, sha256)).toEqual([digest(0xa), second, sha256(`${second} ${digest(0xc)}`)]);
  });
  test("gives none for no layer", () => expect(chainIds([], sha256)).toEqual([]));
});

describe("distributionSource()", () => {
  const key = "containerd.io/distribution.source.ghcr.io";
  const from = { registry: "ghcr.io", repository: "a/b" };
  test("puts a repository to those that are there, sorted", () => {
    expect(distributionSource(from, {})).toEqual([key, "a/b"]);
    expect(distributionSource(from, { [key]: "z/z,a/a" })).toEqual([key, "a/a,a/b,z/z"]);
  });
  test("has nothing to say where it is there, or the label would be too long", () => {
    expect(distributionSource(from, { [key]: "x,a/b" })).toBeUndefined();
    expect(distributionSource(from, { [key]: "x".repeat(4096) })).toBeUndefined();
  });
});

describe("snapshotLabels()", () => {
  const annotations = {
    "containerd.io/snapshot/nydus-blob": "true",
    "org.example": "not a snapshot's",
    "containerd.io/snapshot/long": "x".repeat(5000),
    "containerd.io/snapshot/cri.image-ref": "forged",
  };
  const layers = [of(MEDIA_TYPE.ociLayer, 1), of(MEDIA_TYPE.nydusBlob, 2, { annotations }), of(MEDIA_TYPE.ociLayer, 3)];
  const manifest = manifestOf(of(MEDIA_TYPE.ociConfig, 9), layers);
  const given = { image: "docker.io/library/a:b", manifestDigest: digest(7), index: 1, chainId: digest(8) };

  test("are those of a pull: where it comes from, what it becomes, and what its annotations say to snapshotters", () => {
    expect(snapshotLabels({ ...given, manifest })).toEqual({
      "containerd.io/snapshot.ref": digest(8),
      "containerd.io/snapshot/nydus-blob": "true",
      "containerd.io/snapshot/cri.image-ref": "docker.io/library/a:b",
      "containerd.io/snapshot/cri.layer-digest": digest(2),
      "containerd.io/snapshot/cri.image-layers": `${digest(2)},${digest(3)}`,
      "containerd.io/snapshot/cri.manifest-digest": digest(7),
    });
  });
  test("name as many layers as containerd's 4096 bytes hold", () => {
    const many = Array.from({ length: 100 }, (_, i) => of(MEDIA_TYPE.ociLayer, i));
    const labels = snapshotLabels({ ...given, manifest: manifestOf(of(MEDIA_TYPE.ociConfig, 9), many) });
    const list = labels["containerd.io/snapshot/cri.image-layers"] ?? "";
    const bytes = "containerd.io/snapshot/cri.image-layers".length + list.length;
    expect(bytes).toBeLessThanOrEqual(4096);
    expect(bytes).toBeGreaterThan(4096 - 72);
  });
});
