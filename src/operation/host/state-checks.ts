import { existsSync, realpathSync, statSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { asNydusError, formatError } from "../../base/errors.ts";
import { helperOf, readAuthFile } from "../../content/registry/auth-file.ts";
import { loginFilePath } from "../../content/registry/credential-files.ts";
import { type MountInfo, readMountInfo } from "../../os/mount.ts";
import { listMounts } from "../mount/mount-record.ts";
import { type Check, type DoctorEnv, type Finding, fail, ok, skip, warn } from "./checks.ts";
import { findProgram, isWritable } from "./programs.ts";

const MIB = 2 ** 20;
const LOW_SPACE_BYTES = 2048 * MIB;
const NO_SPACE_BYTES = 64 * MIB;
const LOW_INODES = 1000;
/** Why a type of file system is no good place for caches or for what containers write. */
const POOR_TYPES: Readonly<Record<string, string>> = {
  overlay: "the upper directories of containers cannot be on overlayfs",
  nfs: "locks and sparse files are not to be trusted over NFS",
  nfs4: "locks and sparse files are not to be trusted over NFS",
  cifs: "locks and sparse files are not to be trusted over SMB",
  vfat: "it has no sparse files and no owners",
  exfat: "it has no sparse files and no owners",
};
/** Options of the mount that reach into containers whose images are unpacked there. */
const POOR_OPTIONS = ["noexec", "nosuid", "nodev"];
const OTHERS_MODE = 0o077;

/** Checks of the state directory and of the user's files. */
export const STATE_CHECKS: readonly Check[] = [
  { name: "state directory", run: checkStateDir },
  { name: "file system", run: checkFileSystem },
  { name: "disk space", run: checkSpace },
  { name: "mounts", run: checkMounts },
  { name: "credentials", run: checkCredentials },
];

/** The directory itself, or the nearest above it that is there. */
function nearest(path: string): string {
  for (let dir = path; ; dir = dirname(dir)) if (existsSync(dir) || dirname(dir) === dir) return dir;
}

async function checkStateDir({ root }: DoctorEnv): Promise<Finding> {
  const dir = nearest(root);
  if (!statSync(dir).isDirectory()) return fail(`${dir} is no directory`, "remove it, or name another one by --root");
  const advice = "make it writable, or name another one by --root or NYDUS_ROOT";
  if (!isWritable(dir)) return fail(`${dir} cannot be written to`, advice);
  return dir === root ? ok(root) : ok(`${root} is not there yet: it is made when it is needed`);
}

/** The mount that a path is on. */
function mountOf(path: string): MountInfo | undefined {
  const real = realpathSync(path);
  const isAbove = ({ mountpoint }: MountInfo): boolean =>
    mountpoint === "/" || real === mountpoint || real.startsWith(`${mountpoint}/`);
  const above = readMountInfo().filter(isAbove);
  const longest = Math.max(...above.map(({ mountpoint }) => mountpoint.length));
  return above.findLast(({ mountpoint }) => mountpoint.length === longest);
}

async function checkFileSystem({ root }: DoctorEnv): Promise<Finding> {
  const mount = mountOf(nearest(root));
  if (mount === undefined) return skip("what the state directory is on cannot be told");
  const where = `${mount.type} at ${mount.mountpoint}`;
  const why = mount.type.startsWith("fuse") ? "it is a file system of a program" : POOR_TYPES[mount.type];
  if (why !== undefined) return warn(`${where}: ${why}`, "name a directory on a local disk by --root");
  const options = mount.options.split(",").filter((option) => POOR_OPTIONS.includes(option));
  if (options.length === 0) return ok(where);
  const found = `${where} is mounted ${options.join(",")}: so are containers of images that are unpacked there`;
  return warn(found, `mount -o remount,${options.map((option) => option.slice(2)).join(",")} ${mount.mountpoint}`);
}

async function checkSpace({ root }: DoctorEnv): Promise<Finding> {
  const { bavail, bsize, ffree, files } = await statfs(nearest(root));
  const bytes = bavail * bsize;
  const free = bytes >= 1024 * MIB ? `${(bytes / 1024 / MIB).toFixed(1)} GiB` : `${Math.floor(bytes / MIB)} MiB`;
  const advice = "free some: nydus prune, nydus cache gc --max-size SIZE";
  if (files > 0 && ffree < LOW_INODES) return warn(`${ffree} inodes are free`, advice);
  if (bytes < NO_SPACE_BYTES) return fail(`${free} are free`, advice);
  return bytes < LOW_SPACE_BYTES ? warn(`${free} are free`, advice) : ok(`${free} free`);
}

async function checkMounts({ root }: DoctorEnv): Promise<Finding> {
  const mounts = existsSync(root) ? listMounts(root) : [];
  const dead = mounts.filter(({ state }) => state === "dead");
  const [first] = dead;
  if (first === undefined) return ok(`${mounts.length}, none of them without a server`);
  const found = `${dead.length} of ${mounts.length} have lost their server, such as ${first.mountpoint}`;
  return warn(found, `nydus umount ${first.mountpoint}`);
}

async function checkCredentials({ variables }: DoctorEnv): Promise<Finding> {
  const path = loginFilePath(variables);
  let helper: string | undefined;
  try {
    const file = await readAuthFile(path);
    if (file === undefined) return ok(`none: ${path} is not there`);
    helper = helperOf(file, "docker.io");
  } catch (error) {
    return fail(
      formatError(asNydusError(error, { path })),
      "mend the file, or remove it and log in again: nydus login",
    );
  }
  const program = helper && `docker-credential-${helper}`;
  if (program && findProgram(program, variables["PATH"]) === undefined) {
    return warn(`${path} names ${program}, which is not on PATH`, `install it, or take it out of ${path}`);
  }
  if ((statSync(path).mode & OTHERS_MODE) === 0) return ok(path);
  return warn(`${path} can be read by others`, `chmod 600 ${path}`);
}
