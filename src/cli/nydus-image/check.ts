import { inPlace, NydusError } from "../../base/errors.ts";
import { checkBootstrap } from "../../format/rafs/check.ts";
import { openRafs } from "../../format/rafs/image.ts";
import { readBootstrapFile } from "../../operation/build/bootstrap-file.ts";
import { printStderr, printText } from "../output.ts";
import { bootstrapArgument } from "./arguments.ts";
import { featureNames } from "./blob-features.ts";
import type { ImageCommand } from "./command.ts";
import { COMMON_OPTIONS, textOf } from "./option.ts";
import { writeOutput } from "./output-json.ts";

/** The bootstrap as argument, or as older callers give it. */
const BOOTSTRAP_REQUIRED = { long: "bootstrap", short: "B", help: "The bootstrap, in the place of the argument" };

/** `nydus-image check` */
export const checkCommand: ImageCommand = {
  shape: {
    name: "nydus-image check",
    about: "Check the structures of a bootstrap",
    positional: { name: "BOOTSTRAP", help: "Bootstrap, or blob with one inside" },
    options: [
      BOOTSTRAP_REQUIRED,
      { long: "blob-dir", short: "D", help: "Taken for compatibility, and not read" },
      { long: "config", short: "C", help: "Taken for compatibility, and not read" },
      { long: "verbose", short: "v", isFlag: true, help: "Also count what there is" },
      { long: "output-json", short: "J", help: "File for the result as JSON" },
      ...COMMON_OPTIONS,
    ],
  },
  async run(parsed, context) {
    const path = bootstrapArgument(parsed);
    const bytes = await readBootstrapFile(path, await context.codecs());
    const { findings, counts } = inPlace({ path }, () => checkBootstrap(bytes));
    for (const { message, offset } of findings) {
      printStderr(`Error: ${message}${offset === undefined ? "" : ` (at byte ${offset})`}\n`);
    }
    if (findings.length > 0) {
      throw new NydusError("EUCLEAN", `Cannot use bootstrap: ${findings.length} findings`, { path });
    }
    const { blobs, compressor } = inPlace({ path }, () => openRafs(bytes));
    const rows = blobs.map((blob, i) => {
      const sizes = `compressed size ${blob.compressedBytes}, uncompressed size ${blob.deviceBytes}`;
      const chunks = `chunk size: ${blob.chunkBytes}, chunk count: ${blob.chunkCount}`;
      return `\t ${i}: ${blob.id}, ${sizes}, ${chunks}, features: ${featureNames(blob)}\n`;
    });
    const shown = Object.entries(counts).map(([name, count]) => `${name}: ${count}\n`);
    const verbose = parsed.values.has("verbose") ? shown.join("") : "";
    const head = "RAFS filesystem metadata is valid, referenced data blobs: \n";
    await printText(`${verbose}${head}${rows.join("")}`);
    const ids = blobs.map(({ id }) => id);
    await writeOutput(textOf(parsed, "output-json"), { bootstrap: path, blobs: ids, compressor }, { isCompact: true });
  },
};
