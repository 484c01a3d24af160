import { type ArgsDef, runCommand } from "citty";
import { asNydusError, ERROR_CODES, NydusError } from "../base/errors.ts";
import { GLOBAL_ARGS, readCommandArguments, readGlobalFlags, toCittyArguments } from "./arguments.ts";
import type { CliContext, CommandRun, CommandWithUsage } from "./command.ts";
import { findCommand } from "./commands.ts";
import { commandHelp, programHelp } from "./help.ts";
import { OutputClosed, printError, printText } from "./output.ts";
import { stateRoot } from "./state-root.ts";
import { versionLine } from "./version.ts";

/** Exit status of a program that SIGPIPE would have ended. */
const SIGPIPE_STATUS = 141;

/** Flags before the command's name. */
const PROGRAM_ARGS = {
  ...GLOBAL_ARGS,
  version: { type: "boolean", alias: "v", description: "Show version and commit" },
} as const satisfies ArgsDef;

/** The signals that end the program. */
export interface ProgramSignals {
  readonly signal: AbortSignal;
  /** Stops listening to them. */
  readonly release: () => void;
}

type Flags = ReadonlyMap<string, string | true>;

/**
 * Runs the command line.
 * @param words without runtime and script
 * @param signals aborted when the program is to end early, with the reason as NydusError
 * @returns the exit status; every error has been printed
 */
export async function runProgram(words: readonly string[], signals: ProgramSignals): Promise<number> {
  try {
    return await dispatch(words, signals);
  } catch (error) {
    return reportFailure(error, words, signals.signal);
  }
}

async function dispatch(words: readonly string[], signals: ProgramSignals): Promise<number> {
  const [before, [name, ...own]] = withHint("nydus", () => readGlobalFlags(words, PROGRAM_ARGS));
  if (before.flags.has("version")) return printed(`${versionLine()}\n`);
  if (name === undefined && before.flags.has("help")) return printed(programHelp());
  if (name === "help") return own[0] === undefined ? printed(programHelp()) : printCommandHelp(own[0]);
  if (name === undefined) throw new NydusError("EINVAL", "Missing command; see 'nydus --help'");
  const command = await loadCommand(name);
  const args = argsOf(command);
  const given = withHint(`nydus ${name}`, () => readCommandArguments(own, args));
  const flags = new Map([...before.flags, ...given.flags]);
  if (flags.has("help")) return printCommandHelp(name);
  const run: CommandRun = { context: contextOf(flags, signals), status: 0 };
  const ownFlags = new Map([...given.flags].filter(([flag]) => Object.hasOwn(args, flag)));
  await runCommand(command, { rawArgs: toCittyArguments({ ...given, flags: ownFlags }), data: run });
  return run.status;
}

async function printCommandHelp(name: string): Promise<number> {
  return printed(commandHelp(name, await loadCommand(name)));
}

function argsOf(command: CommandWithUsage): ArgsDef {
  return (command.args ?? {}) as ArgsDef;
}

async function loadCommand(name: string): Promise<CommandWithUsage> {
  const entry = findCommand(name);
  if (entry === undefined) {
    throw new NydusError("EINVAL", `Unknown command ${JSON.stringify(name)}; see 'nydus --help'`);
  }
  return entry.load();
}

/** Adds to an error of usage where the right usage stands. */
function withHint<T>(command: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    const { code, message } = asNydusError(error);
    throw new NydusError(code, `${message}; see '${command} --help'`, {}, { cause: error });
  }
}

async function printed(text: string): Promise<number> {
  await printText(text);
  return 0;
}

function contextOf(flags: Flags, signals: ProgramSignals): CliContext {
  const root = flags.get("root");
  return {
    root: stateRoot(typeof root === "string" ? root : undefined, process.env),
    json: flags.has("json"),
    quiet: flags.has("quiet"),
    debug: flags.has("debug"),
    signal: signals.signal,
    releaseSignals: signals.release,
  };
}

function reportFailure(thrown: unknown, words: readonly string[], signal: AbortSignal): number {
  if (thrown instanceof OutputClosed) return SIGPIPE_STATUS;
  // What fails because the program was told to end is not a failure of its own.
  const interrupted = signal.aborted && signal.reason instanceof NydusError;
  const error = interrupted ? (signal.reason as NydusError) : asNydusError(thrown);
  // Also a command line that cannot be read has its errors in the form that it asks for.
  printError(error, { json: words.includes("--json"), debug: words.includes("--debug") });
  return ERROR_CODES[error.code].exit;
}
