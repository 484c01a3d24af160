import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { GOLDEN_IMAGES, type GoldenImage } from "./containerd-images.ts";
import { smallGolden } from "./golden.ts";

const IS_NYDUS = { oci: false, docker: false, nydus: true, "nerdctl-nydus": true } satisfies Record<
  GoldenImage,
  boolean
>;

/** Whether the daemon mounts an image, and reads its data when it is needed. */
export function isNydus(image: GoldenImage): boolean {
  return IS_NYDUS[image];
}

const CHAINS = new Map(GOLDEN_IMAGES.map((image) => [image, chainIdOf(diffIdsOf(image))]));

/** Chain id of an image's layers, by which containerd names the snapshot that its containers stand on. */
export function chainOf(image: GoldenImage): string {
  return CHAINS.get(image) as string;
}

/** @see image-spec, config.md: Layer ChainID */
function chainIdOf(diffIds: readonly string[]): string {
  const digest = (text: string): string => `sha256:${createHash("sha256").update(text).digest("hex")}`;
  return diffIds.reduce((chain, diffId) => (chain === "" ? diffId : digest(`${chain} ${diffId}`)), "");
}

function diffIdsOf(image: GoldenImage): string[] {
  // Docker's image has the very layers of OCI's.
  const name = image === "docker" ? "oci" : image;
  const index = readJson("index.json") as { manifests: { digest: string; annotations: Record<string, string> }[] };
  const found = index.manifests.find((one) => one.annotations["org.opencontainers.image.ref.name"] === name);
  const manifest = readBlob(found?.digest ?? "") as { config: { digest: string } };
  const config = readBlob(manifest.config.digest) as { rootfs: { diff_ids: string[] } };
  return config.rootfs.diff_ids;
}

function readBlob(digest: string): unknown {
  return readJson("blobs", ...digest.split(":"));
}

function readJson(...path: string[]): unknown {
  return JSON.parse(readFileSync(join(smallGolden(), "images", ...path), "utf8"));
}
