import type { ArgsDef, CommandDef, ParsedArgs } from "citty";

/** What a command gets besides its own arguments. */
export interface CliContext {
  /** Directory of all state. */
  readonly root: string;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly debug: boolean;
  /** Aborted by SIGINT, SIGTERM and SIGHUP. */
  readonly signal: AbortSignal;
  /** From now on the command handles these signals itself. */
  releaseSignals(): void;
}

/** A command: its help, its arguments, and what it does. */
export interface NydusCommand<T extends ArgsDef> {
  /** First line: what it does, as in the list of commands; more lines follow it in its own help. */
  readonly description: string;
  readonly args: T;
  /** What follows the name and flags in the usage lines, where the positionals alone do not tell. */
  readonly usage?: readonly string[];
  /** The result is the exit status. */
  run(args: ParsedArgs<T>, context: CliContext): Promise<number>;
}

/** A command as citty runs it, with what only our help knows. */
export interface CommandWithUsage extends CommandDef<ArgsDef> {
  readonly usage?: readonly string[];
}

/** Where a command leaves its exit status. */
export interface CommandRun {
  readonly context: CliContext;
  status: number;
}

/** A command as citty runs it; its `data` is a {@link CommandRun}. */
export function nydusCommand<const T extends ArgsDef>(command: NydusCommand<T>): CommandWithUsage {
  return {
    ...(command.usage && { usage: command.usage }),
    meta: { description: command.description },
    args: command.args,
    run: async ({ args, data }) => {
      const run = data as CommandRun;
      run.status = await command.run(args as unknown as ParsedArgs<T>, run.context);
    },
  };
}
