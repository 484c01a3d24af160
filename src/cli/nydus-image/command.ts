import type { Codecs } from "../../format/codec/codecs.ts";
import type { CommandShape, Parsed } from "./option.ts";

/** What a command gets besides its arguments. */
export interface ImageContext {
  /** Aborted by SIGINT, SIGTERM and SIGHUP. */
  readonly signal: AbortSignal;
  codecs(): Promise<Codecs>;
}

/** A command: what it takes, and what it does. */
export interface ImageCommand {
  readonly shape: CommandShape;
  /** Does it; whatever it throws is an error of the command, status 1. */
  run(parsed: Parsed, context: ImageContext): Promise<void>;
}
