import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { readTree } from "../../format/rafs/read-tree.ts";
import type { TreeNode } from "../../format/tree/node.ts";
import { openBootstrapFile } from "../../operation/build/bootstrap-file.ts";
import { printText } from "../output.ts";
import type { ImageCommand } from "./command.ts";
import { formatCounts, ImageStatistics } from "./image-stat.ts";
import { COMMON_OPTIONS, textOf } from "./option.ts";

/** `nydus-image stat` */
export const statCommand: ImageCommand = {
  shape: {
    name: "nydus-image stat",
    about: "Count files and chunks of RAFS filesystems",
    options: [
      { long: "bootstrap", short: "B", help: "Bootstrap to count" },
      { long: "blob-dir", short: "D", help: "Directory whose bootstraps are counted together, equal chunks once" },
      { long: "target", short: "T", help: "Bootstrap of which what the others have is counted apart" },
      { long: "config", short: "C", help: "Taken for compatibility, and not read" },
      { long: "digester", default: "blake3", choices: ["blake3", "sha256"], help: "Taken for compatibility" },
      { long: "output-json", short: "J", help: "File for the result as JSON, in the place of text" },
      ...COMMON_OPTIONS,
    ],
  },
  async run(parsed, context) {
    const codecs = await context.codecs();
    const statistics = new ImageStatistics();
    const [bootstrap, dir, target] = ["bootstrap", "blob-dir", "target"].map((long) => textOf(parsed, long));
    const isDeduplicated = bootstrap === undefined && dir !== undefined;
    if (bootstrap !== undefined) statistics.addBase(await treeOf(bootstrap, codecs));
    else if (dir !== undefined) await addDirectory(statistics, { dir, target, codecs });
    else throw new NydusError("EINVAL", "Cannot count: one of --bootstrap and --blob-dir is wanted");
    if (target !== undefined) statistics.addTarget(await treeOf(target, codecs));
    if (isDeduplicated) statistics.deduplicate();
    const output = textOf(parsed, "output-json");
    if (output === undefined)
      await printText(textReport(statistics, { isDeduplicated, hasTarget: target !== undefined }));
    else await writeJson(output, statistics, { isDeduplicated, hasTarget: target !== undefined });
  },
};

async function treeOf(path: string, codecs: Codecs): Promise<TreeNode> {
  return readTree(await openBootstrapFile(path, codecs));
}

/** Every file of a directory that has a bootstrap and no extension; other files are passed over. */
async function addDirectory(
  statistics: ImageStatistics,
  { dir, target, codecs }: { readonly dir: string; readonly target: string | undefined; readonly codecs: Codecs },
): Promise<void> {
  const names = await readdir(dir, { withFileTypes: true }).catch((error: unknown) => {
    throw asNydusError(error, { path: dir });
  });
  const files = names.filter((one) => one.isFile() && !one.name.includes(".")).map(({ name }) => join(dir, name));
  for (const path of files.sort()) {
    if (path === target) continue;
    const tree = await treeOf(path, codecs).catch(() => undefined);
    if (tree !== undefined) statistics.addBase(tree);
  }
}

interface ReportOptions {
  readonly isDeduplicated: boolean;
  readonly hasTarget: boolean;
}

function textReport(statistics: ImageStatistics, { isDeduplicated, hasTarget }: ReportOptions): string {
  const target = hasTarget ? `Target Image Statistics:\n${formatCounts(statistics.target)}` : "";
  const rows = isDeduplicated ? statistics.dedupRows().map((row) => `${row.join("\t\t\t")}\n`) : [];
  const head = "\n\nChunk Deduplication Statistics:\nGlobal Dedup Thresh:\tRaw Chunks:\tDedup Chunks:\n";
  const dedup = isDeduplicated ? head + rows.join("") : "";
  return `${target}\n\nBase Image Statistics:\n${formatCounts(statistics.base)}${dedup}`;
}

async function writeJson(path: string, statistics: ImageStatistics, options: ReportOptions): Promise<void> {
  const document = {
    dedup_enabled: options.isDeduplicated,
    target_enabled: options.hasTarget,
    base_image: statistics.base,
    target_image: statistics.target,
  };
  try {
    await writeFile(path, JSON.stringify(document));
  } catch (error) {
    throw asNydusError(error, { path });
  }
}
