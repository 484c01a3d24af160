import { existsSync } from "node:fs";
import { join } from "node:path";
import { inPlace, NydusError } from "../../base/errors.ts";
import { DEFAULT_CONTAINERD } from "../../content/containerd/place.ts";
import { checkImports, readImports } from "./config-imports.ts";
import { addSettings, configVersionOf, containerdAddressIn, parseConfig } from "./containerd-config.ts";
import { type ContainerdProgram, checkByContainerd, findContainerd } from "./containerd-program.ts";
import {
  type ContainerdVersion,
  containerdSettings,
  newestConfigVersion,
  type Setting,
  SNAPSHOTTER_NAME,
} from "./containerd-settings.ts";
import type { HostPlan, PlannedChange } from "./host-plan.ts";
import { readText, resolveFile } from "./place-file.ts";
import { formatUnit, ownerOfUnit, UNIT_NAME } from "./systemd-unit.ts";

/** What is to be installed where. */
export interface InstallRequest {
  readonly configPath: string;
  /** Of the snapshotter's socket. */
  readonly address: string;
  /** Also set up Kubernetes' images. */
  readonly cri: boolean;
  /** `os/arch`, of this machine. */
  readonly platform: string;
  /** Directory of all state. */
  readonly root: string;
  /** Where the unit is to be; undefined where there is none to be written. */
  readonly unitDir: string | undefined;
  /** Runs the snapshotter: absolute path and arguments. */
  readonly command: readonly string[];
  /** PATH that containerd is looked for on. */
  readonly searchPath: string | undefined;
  /** Instead of what the containerd that is found says. */
  readonly containerd?: ContainerdVersion | undefined;
}

/** What has to change, and what runs the snapshotter. */
export interface InstallPlan extends HostPlan {
  readonly command: readonly string[];
}

/** Of files that are made; their directories are the packages' affair. */
const CONFIG_MODE = 0o644;
const UNIT_MODE = 0o644;
/** What a configuration begins with that was made here: it goes when nothing else is in it. */
export const MADE_HEAD = "# Made by 'nydus install containerd'.";

/**
 * What has to change on this machine for containerd to have the snapshotter. Nothing is touched.
 * @throws ENOENT which containerd it is cannot be told; EUCLEAN a configuration that cannot be parsed; ENOTSUP one of
 *   another version; EEXIST something else is in the way, with its line; EPERM, EIO
 */
export async function planInstall(request: InstallRequest): Promise<InstallPlan> {
  const found = await findContainerd(request.searchPath);
  const containerd = request.containerd ?? found?.version;
  if (containerd === undefined) {
    const hint = "give it by --containerd-version, e.g. 2.2";
    throw new NydusError("ENOENT", `Cannot install: which containerd it is for cannot be told; ${hint}`);
  }
  const config = await planConfig(request, containerd, found);
  const command = [...request.command, ...containerdFlags(config.before)];
  const unit = request.unitDir === undefined ? undefined : await planUnit(command, request.unitDir);
  const changes = [unit, config].filter((change) => change !== undefined);
  const notes = notesOf(request, containerd);
  return { changes: changes.filter(({ before, after }) => before !== after), notes, command };
}

async function planConfig(
  request: InstallRequest,
  containerd: ContainerdVersion,
  found: ContainerdProgram | undefined,
): Promise<PlannedChange> {
  const path = await resolveFile(request.configPath);
  const before = await readText(path);
  const text = before ?? `${MADE_HEAD}\nversion = ${newestConfigVersion(containerd)}\n`;
  return await inPlace({ path }, async () => {
    const config = parseConfig(text);
    const settingsOf = (configVersion: number): readonly Setting[] =>
      containerdSettings({ ...request, containerd, configVersion });
    const settings = settingsOf(configVersionOf(config));
    const after = addSettings(text, settings);
    checkImports(readImports(path, config), settings, containerd.major < 2);
    const newest = settingsOf(newestConfigVersion(containerd));
    const program = found?.version.major === containerd.major ? found : undefined;
    const check = program && ((staged: string) => checkByContainerd(program, staged, newest));
    return { path, before, after, mode: CONFIG_MODE, keepsBackup: true, ...(check && { check }) };
  });
}

async function planUnit(command: readonly string[], dir: string): Promise<PlannedChange> {
  const path = await resolveFile(join(dir, UNIT_NAME));
  const before = await readText(path);
  const owner = before === undefined ? "ours" : ownerOfUnit(before);
  if (owner === "other") {
    const hint = "remove it, or use --skip-unit";
    throw new NydusError("EEXIST", `Cannot write unit: another one of this name is there; ${hint}`, { path });
  }
  return { path, before, after: formatUnit(command), mode: UNIT_MODE, keepsBackup: owner === "changed" };
}

/** Where containerd is, if it is not where everyone looks for it. */
function containerdFlags(text: string | undefined): string[] {
  const address = text === undefined ? undefined : containerdAddressIn(parseConfig(text));
  const isUsual = address === undefined || address === DEFAULT_CONTAINERD.address;
  return isUsual ? [] : ["--containerd-address", address];
}

function notesOf({ cri, command }: InstallRequest, { major, minor }: ContainerdVersion): string[] {
  const program = command[0] ?? "";
  return [
    ...(/^\/(tmp|var\/tmp|dev\/shm|run)\//.test(program)
      ? [`${program} is where files do not stay: put it elsewhere, such as /usr/local/bin, and install again`]
      : []),
    ...(existsSync(program) ? [] : [`${program} is not there`]),
    ...(cri || major < 2
      ? []
      : [`Kubernetes goes on with its own snapshotter; --cri makes it use ${SNAPSHOTTER_NAME}`]),
    ...(major === 1 && minor < 7
      ? [`ctr ${major}.${minor} pulls plain OCI images only: pull Nydus images by nerdctl or 'nydus copy'`]
      : []),
  ];
}
