import { lstat, readlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { inPlace, NydusError } from "../../base/errors.ts";
import { readMountInfo } from "../../os/mount.ts";
import { removeSettings } from "./containerd-config.ts";
import { type ContainerdProgram, dumpConfig, findContainerd } from "./containerd-program.ts";
import type { HostPlan, PlannedChange } from "./host-plan.ts";
import { MADE_HEAD } from "./install.ts";
import { readText, resolveFile } from "./place-file.ts";
import { ownerOfUnit, UNIT_NAME } from "./systemd-unit.ts";

/** What is to be taken back. */
export interface UninstallRequest {
  readonly configPath: string;
  /** Directory that the unit may be in; undefined: it is left alone. */
  readonly unitDir: string | undefined;
  readonly searchPath: string | undefined;
  /** Directory of all state. */
  readonly root: string;
  /** Also while containers use the snapshotter. */
  readonly force: boolean;
}

/** What is left of a configuration that was made here, once nothing else is in it. */
const MADE_REST = /^version = \d+\s*$/;
/** How many mounts are named. */
const NAMED_MOUNTS = 3;

/**
 * What has to change on this machine to take back what `planInstall` had changed; other changes stay.
 * @throws EEXIST what was installed has been changed since, with the line; EBUSY containers use the snapshotter;
 *   EUCLEAN a configuration that cannot be parsed; EPERM, EIO
 */
export async function planUninstall(request: UninstallRequest): Promise<HostPlan> {
  const found = await findContainerd(request.searchPath);
  const config = await planConfig(request.configPath, found);
  const { changes: units, ...rest } = await planUnit(request.unitDir);
  const changes = [config, ...units].filter(({ before, after }) => before !== after);
  const inUse = changes.length > 0 ? usersOf(request.root) : [];
  if (inUse.length > 0 && !request.force) {
    const names = `${inUse.slice(0, NAMED_MOUNTS).join(", ")}${inUse.length > NAMED_MOUNTS ? ", …" : ""}`;
    const message = `Cannot uninstall: containers use the snapshotter (${inUse.length} mounts: ${names})`;
    throw new NydusError("EBUSY", `${message}; remove them, or use --force`);
  }
  return { ...rest, changes };
}

async function planConfig(configPath: string, found: ContainerdProgram | undefined): Promise<PlannedChange> {
  const path = await resolveFile(configPath);
  const before = await readText(path);
  if (before === undefined) return { path, mode: 0o644, keepsBackup: false, before, after: before };
  const rest = inPlace({ path }, () => removeSettings(before));
  const after = isMadeHere(rest) ? undefined : rest;
  const check = found && (async (staged: string) => void (await dumpConfig(found, staged)));
  return { path, mode: 0o644, keepsBackup: after !== undefined, before, after, ...(check && { check }) };
}

function isMadeHere(text: string): boolean {
  return text.startsWith(`${MADE_HEAD}\n`) && MADE_REST.test(text.slice(MADE_HEAD.length + 1));
}

async function planUnit(dir: string | undefined): Promise<HostPlan> {
  if (dir === undefined) return { changes: [], notes: [] };
  const path = join(dir, UNIT_NAME);
  const before = await readText(path);
  if (before === undefined) return { changes: [], notes: [] };
  const owner = ownerOfUnit(before);
  if (owner === "ours") {
    const unit = { path, before, after: undefined, mode: 0o644, keepsBackup: false };
    return { changes: [unit], links: await enablingLinks(path), notes: [] };
  }
  const why = owner === "changed" ? "was changed since it was installed" : "is not ours";
  return { changes: [], notes: [`${path} ${why}: it stays`] };
}

/** The link by which systemd starts a unit at boot, if it is there. */
async function enablingLinks(unitPath: string): Promise<string[]> {
  const link = join(dirname(unitPath), "multi-user.target.wants", UNIT_NAME);
  try {
    const isOurs = (await lstat(link)).isSymbolicLink() && (await readlink(link)).endsWith(`/${UNIT_NAME}`);
    return isOurs ? [link] : [];
  } catch {
    return []; // not enabled
  }
}

/** Mount points of overlays whose layers are in the state directory: root directories of containers. */
function usersOf(root: string): string[] {
  const below = new RegExp(`(?:lowerdir|upperdir|lowerdir\\+)=(?:[^,]*:)?${escapeRegExp(root)}/`);
  return readMountInfo()
    .filter(({ type, superOptions }) => type === "overlay" && below.test(superOptions))
    .map(({ mountpoint }) => mountpoint);
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
