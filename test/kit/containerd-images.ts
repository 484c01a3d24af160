import { readFileSync } from "node:fs";
import { join } from "node:path";
import { smallGolden } from "./golden.ts";
import { run } from "./shell.ts";
import { readTree, type TreeEntry } from "./tree.ts";

/** Images that every containerd test runs, all of one tree: plain ones, and converted by nydusify and by nerdctl. */
export const GOLDEN_IMAGES = ["oci", "docker", "nydus", "nerdctl-nydus"] as const;
const DATA_ANNOTATION = "containerd.io/snapshot/nydus-blob";

export type GoldenImage = (typeof GOLDEN_IMAGES)[number];

/** Puts an image of the carried golden set into a registry, as it is. @returns its reference there */
export async function pushGolden(registry: string, name: GoldenImage): Promise<string> {
  const reference = `${registry}/golden:${name}`;
  // skopeo finds no manifest of Docker's kind in an OCI layout, and made the golden one from the OCI image itself.
  const source =
    name === "docker" ? ["--format", "v2s2", imageInLayout("oci")] : ["--preserve-digests", imageInLayout(name)];
  const { status, stderr } = await run("skopeo", "copy", "--dest-tls-verify=false", ...source, `docker://${reference}`);
  if (status !== 0) throw new Error(`skopeo copy ${name}: ${stderr}`);
  return reference;
}

/** A layer of an image, and whether it is what a Nydus image's bootstrap points into. */
export interface ImageLayer {
  readonly digest: string;
  readonly isData: boolean;
}

/** The layers of a golden image, as its manifest has them; Docker's are the same bytes as OCI's. */
export function layersOf(name: GoldenImage): ImageLayer[] {
  const read = (...path: string[]): unknown => JSON.parse(readFileSync(join(smallGolden(), "images", ...path), "utf8"));
  const index = read("index.json") as { manifests: { digest: string; annotations: Record<string, string> }[] };
  const found = index.manifests.find((one) => one.annotations["org.opencontainers.image.ref.name"] === name);
  const [algorithm = "", hex = ""] = found?.digest.split(":") ?? [];
  const manifest = read("blobs", algorithm, hex) as {
    layers: { digest: string; annotations?: Record<string, string> }[];
  };
  return manifest.layers.map(({ digest, annotations = {} }) => ({ digest, isData: DATA_ANNOTATION in annotations }));
}

/** The name of an image in the carried golden set. */
export function imageInLayout(name: string): string {
  return `oci:${join(smallGolden(), "images")}:${name}`;
}

/** What each of the images shows. */
export function goldenTree(): TreeEntry[] {
  return readTree(join(smallGolden(), "tree.jsonl"));
}
