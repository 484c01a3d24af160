import { createInterface } from "node:readline";
import { asNydusError, formatError } from "../../base/errors.ts";
import { openBootstrapFile } from "../../operation/build/bootstrap-file.ts";
import { printText } from "../output.ts";
import { bootstrapArgument } from "./arguments.ts";
import type { ImageCommand } from "./command.ts";
import { Inspector } from "./inspector.ts";
import { COMMON_OPTIONS, textOf } from "./option.ts";

const PROMPT = "Inspecting RAFS :> ";

/** `nydus-image inspect` */
export const inspectCommand: ImageCommand = {
  shape: {
    name: "nydus-image inspect",
    about: "Show what a bootstrap holds, interactively or by requests",
    positional: { name: "BOOTSTRAP", help: "Bootstrap, or blob with one inside" },
    options: [
      { long: "bootstrap", short: "B", help: "The bootstrap, in the place of the argument" },
      { long: "blob-dir", short: "D", help: "Taken for compatibility, and not read" },
      { long: "config", short: "C", help: "Taken for compatibility, and not read" },
      { long: "request", short: "R", help: "Answer one request: stats, blobs and prefetch give JSON" },
      ...COMMON_OPTIONS,
    ],
  },
  async run(parsed, context) {
    const image = await openBootstrapFile(bootstrapArgument(parsed), await context.codecs());
    const inspector = new Inspector(image);
    const request = textOf(parsed, "request");
    if (request === undefined) return converse(inspector);
    const { text, value } = inspector.answer(request);
    // Programs read stdout and stderr together as JSON, where there is a value.
    await printText(value === null ? `${text}null` : JSON.stringify(value));
  },
};

async function converse(inspector: Inspector): Promise<void> {
  const lines = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY });
  await printText(PROMPT);
  for await (const line of lines) {
    const request = line.trim();
    if (request === "exit" || request === "q") return;
    await printText(`${request === "" ? "" : answerText(inspector, request)}${PROMPT}`);
  }
  await printText("\n");
}

function answerText(inspector: Inspector, request: string): string {
  try {
    return inspector.answer(request).text;
  } catch (error) {
    return `${formatError(asNydusError(error))}\n`;
  }
}
