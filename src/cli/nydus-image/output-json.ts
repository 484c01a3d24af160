import { writeFile } from "node:fs/promises";
import { asNydusError } from "../../base/errors.ts";
import type { Compressor } from "../../format/codec/codecs.ts";
import { programCommit, programVersion } from "../version.ts";

/** What a command made or looked at. */
export interface CommandOutput {
  /** Its path; empty when it lies inside of the blob. */
  readonly bootstrap: string;
  /** Ids in the order of the blob table. */
  readonly blobs: readonly string[];
  readonly compressor: Compressor;
  readonly events?: Readonly<Record<string, number>>;
}

/** Writes the file of `--output-json`, if one is asked for. Equal outputs give equal bytes: it holds no times. */
export async function writeOutput(
  path: string | undefined,
  output: CommandOutput,
  options: { readonly isCompact?: boolean } = {},
): Promise<void> {
  if (path === undefined) return;
  const { bootstrap, blobs, compressor, events = {} } = output;
  const document = {
    version: `v${programVersion()}-${programCommit()}`,
    bootstrap,
    blobs,
    external_bootstrap: "",
    external_blobs: [],
    trace: { consumed_time: {}, registered_events: events },
    fs_version: "6",
    compressor,
  };
  try {
    await writeFile(path, JSON.stringify(document, undefined, options.isCompact === true ? 0 : 2));
  } catch (error) {
    throw asNydusError(error, { path });
  }
}
