import { NydusError } from "../../base/errors.ts";
import { missingOf, parseConfig, type TomlTable } from "./containerd-config.ts";
import { type ContainerdVersion, parseContainerdVersion, type Setting } from "./containerd-settings.ts";
import { findProgram, runProgram } from "./programs.ts";

/** The containerd that is installed. */
export interface ContainerdProgram {
  readonly path: string;
  readonly version: ContainerdVersion;
}

/** The containerd on a PATH; undefined when there is none, or it does not say which it is. */
export async function findContainerd(path: string | undefined): Promise<ContainerdProgram | undefined> {
  const program = findProgram("containerd", path);
  if (program === undefined) return undefined;
  const { stdout, status } = await runProgram(program, ["--version"]);
  const version = status === 0 ? parseContainerdVersion(stdout) : undefined;
  return version && { path: program, version };
}

/**
 * The configuration as containerd itself understands a file, what the file imports included.
 * @throws EUCLEAN containerd does not take it, with its own words
 */
export async function dumpConfig({ path: program }: ContainerdProgram, configPath: string): Promise<TomlTable> {
  const { stdout, stderr, status } = await runProgram(program, ["-c", configPath, "config", "dump"]);
  if (status === 0) return parseConfig(stdout);
  const said = (stderr || stdout).trim().split("\n").at(-1) ?? "";
  const words = said.replaceAll(configPath, "the file");
  throw new NydusError("EUCLEAN", `Cannot use the configuration: ${program} says: ${words || `status ${status}`}`);
}

/**
 * Makes sure that containerd finds in a file what it is to find.
 * @param settings with paths of the newest version of configurations that this containerd prints
 * @throws EUCLEAN as {@link dumpConfig}; EEXIST something that is imported says otherwise
 */
export async function checkByContainerd(
  program: ContainerdProgram,
  configPath: string,
  settings: readonly Setting[],
): Promise<void> {
  const dump = await dumpConfig(program, configPath);
  const [missing] = settings.flatMap((setting) => missingOf(dump, setting));
  if (missing === undefined) return;
  const cause = "what the configuration imports says otherwise";
  throw new NydusError("EEXIST", `Cannot install: to ${program.path} ${missing} all the same; ${cause}`);
}
