import { appendFileSync } from "node:fs";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { OutputClosed, printStderr, printText } from "../output.ts";
import type { ProgramSignals } from "../program.ts";
import { programCommit, programVersion } from "../version.ts";
import { IMAGE_COMMANDS } from "./commands.ts";
import { COMMON_OPTIONS, type CommandShape, helpOf } from "./option.ts";
import { parseHead, parseWords, UsageError } from "./parse.ts";

const USAGE_STATUS = 2;
const FAILURE_STATUS = 1;
const CANCELED_STATUS = 130;
/** Exit status of a program that SIGPIPE would have ended. */
const SIGPIPE_STATUS = 141;

const PROGRAM_SHAPE: CommandShape = {
  name: "nydus-image",
  about: "Build, merge, check and unpack RAFS filesystems, as nydus-image does",
  options: [...COMMON_OPTIONS, { long: "version", short: "V", isFlag: true, help: "Print version information" }],
};

/**
 * Runs the command line of `nydus-image`: what nerdctl, nydus-snapshotter and acceld call a builder.
 * @param words without runtime and script
 * @returns the exit status, as the real program has it: 2 for a command line that cannot be read, 1 for a failure
 */
export async function runNydusImage(words: readonly string[], signals: ProgramSignals): Promise<number> {
  const { signal } = signals;
  const canceled = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
  try {
    // Whoever waits at a pipe hears nothing else: the process ends with the wait.
    await Promise.race([dispatch(words, signal), canceled]);
    return 0;
  } catch (error) {
    return reportFailure(error, words, signal);
  }
}

async function dispatch(words: readonly string[], signal: AbortSignal): Promise<void> {
  const [head, [name, ...own]] = parseHead(PROGRAM_SHAPE, words);
  if (head.has("version")) return printText(versionText());
  if (name === undefined && !head.has("help")) return printText("Usage: nydus-image [OPTIONS] [COMMAND]\n");
  if (name === undefined) return printText(programHelp());
  if (name === "help") return printText(own[0] === undefined ? programHelp() : helpOf((await load(own[0])).shape));
  const command = await load(name);
  const { values, positionals } = parseWords(command.shape, own);
  const parsed = { values: new Map([...head, ...values]), positionals };
  if (parsed.values.has("help")) return printText(helpOf(command.shape));
  await command.run(parsed, { signal, codecs: () => loadCodecs() });
}

async function load(name: string) {
  const entry = Object.hasOwn(IMAGE_COMMANDS, name) ? IMAGE_COMMANDS[name] : undefined;
  if (entry !== undefined) return entry.load();
  throw new UsageError(`unrecognized subcommand '${name}'\n\nUsage: nydus-image [OPTIONS] [COMMAND]`);
}

function programHelp(): string {
  const rows = Object.entries(IMAGE_COMMANDS).map(([name, { about }]) => `  ${name.padEnd(10)} ${about}\n`);
  return `${helpOf(PROGRAM_SHAPE)}\nCommands:\n${rows.join("")}`;
}

/** acceld reads the version by `Version:\s*(v.*)`. */
function versionText(): string {
  return `Version: \tv${programVersion()}\nGit Commit: \t${programCommit()}\nProfile: \trelease\n`;
}

function reportFailure(thrown: unknown, words: readonly string[], signal: AbortSignal): number {
  if (thrown instanceof OutputClosed) return SIGPIPE_STATUS;
  if (thrown instanceof UsageError) {
    printStderr(`error: ${thrown.message}\n\nFor more information, try '--help'.\n`);
    return USAGE_STATUS;
  }
  const error = signal.aborted && signal.reason instanceof NydusError ? signal.reason : asNydusError(thrown);
  const text = `Error: ${formatError(error)}\n`;
  printStderr(text);
  logFailure(words, text);
  return error.code === "ECANCELED" ? CANCELED_STATUS : FAILURE_STATUS;
}

/** Appends to the file of `--log-file`; one that cannot be written is no further failure. */
function logFailure(words: readonly string[], text: string): void {
  const at = words.findIndex((word) => word === "-L" || word === "--log-file" || word.startsWith("--log-file="));
  const word = words[at];
  const path = word?.startsWith("--log-file=") ? word.slice("--log-file=".length) : words[at + 1];
  if (at < 0 || path === undefined) return;
  try {
    appendFileSync(path, text);
  } catch {
    // stderr has it
  }
}
