import type { RemovedImages } from "../operation/image/remove.ts";
import { printJson, printText } from "./output.ts";
import { formatBytes } from "./progress.ts";

/** Prints what was removed, in docker's words; with `total` also how much room that made. */
export async function printRemoved(
  removed: readonly RemovedImages[],
  options: { readonly json: boolean; readonly quiet: boolean; readonly total: boolean },
): Promise<void> {
  const images = removed.flatMap((one) => one.images);
  const swept = removed.flatMap((one) => one.swept);
  const reclaimedBytes = swept.reduce((sum, { bytes }) => sum + bytes, 0);
  if (options.json) return await printJson({ untagged: images, deleted: swept, reclaimedBytes });
  const lines = [
    ...images.map(({ name, root }) => `Untagged: ${name.includes("@") ? name : `${name}@${root.digest}`}\n`),
    ...swept.map(({ kind, digest }) => `Deleted: ${digest}${kind === "blob" ? "" : ` (${kind})`}\n`),
  ];
  const total = options.total ? `Total reclaimed space: ${formatBytes(reclaimedBytes)}\n` : "";
  await printText(options.quiet ? total : `${lines.join("")}${total}`);
}
