import { join } from "node:path";
import { smallGolden } from "./golden.ts";
import { run } from "./shell.ts";
import { readTree, type TreeEntry } from "./tree.ts";

/** Images that every containerd test runs, all of one tree: plain ones, and converted by nydusify and by nerdctl. */
export const GOLDEN_IMAGES = ["oci", "docker", "nydus", "nerdctl-nydus"] as const;
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

function imageInLayout(name: string): string {
  return `oci:${join(smallGolden(), "images")}:${name}`;
}

/** What each of the images shows. */
export function goldenTree(): TreeEntry[] {
  return readTree(join(smallGolden(), "tree.jsonl"));
}
