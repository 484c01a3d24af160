import { spawnSync } from "node:child_process";
import { readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { asNydusError, NydusError } from "../base/errors.ts";
import { unmountByFusermount } from "./fusermount.ts";
import { hasLibc, libc, systemFailure } from "./syscall.ts";

/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)); paths as Latin-1 would be wrong, so they are UTF-8. */
export interface MountInfo {
  readonly mountId: number;
  readonly parentId: number;
  readonly major: number;
  readonly minor: number;
  /** Path in the file system that forms the root of this mount. */
  readonly root: string;
  readonly mountpoint: string;
  readonly options: string;
  readonly type: string;
  readonly source: string;
  readonly superOptions: string;
}

/** umount2(2) flags. */
export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

const EPERM = 1;
const EINVAL = 22;
const EBUSY = 16;
const ENOENT = 2;

/** Decodes the octal escapes (`\040`) of mountinfo. */
export function unescapeMountField(field: string): string {
  if (!field.includes("\\")) return field;
  const bytes: number[] = [];
  const raw = new TextEncoder().encode(field);
  for (let i = 0; i < raw.length; i++) {
    const digits = String.fromCharCode(...raw.subarray(i + 1, i + 4));
    const escaped = raw[i] === 0x5c && /^[0-3][0-7]{2}$/.test(digits);
    bytes.push(escaped ? Number.parseInt(digits, 8) : (raw[i] as number));
    if (escaped) i += 3;
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}

/** The mounts that a mountinfo text lists, in its order; lines of another shape are left out. */
export function parseMountInfo(text: string): MountInfo[] {
  return text.split("\n").flatMap((line) => {
    const fields = line.split(" ");
    const dash = fields.indexOf("-", 6);
    const device = /^(\d+):(\d+)$/.exec(fields[2] ?? "");
    if (dash < 0 || device === null || fields.length < dash + 4) return [];
    return [
      {
        mountId: Number(fields[0]),
        parentId: Number(fields[1]),
        major: Number(device[1]),
        minor: Number(device[2]),
        root: unescapeMountField(fields[3] as string),
        mountpoint: unescapeMountField(fields[4] as string),
        options: fields[5] as string,
        type: fields[dash + 1] as string,
        source: unescapeMountField(fields[dash + 2] as string),
        superOptions: fields[dash + 3] as string,
      },
    ];
  });
}

/** The mounts that this process sees. */
export function readMountInfo(): MountInfo[] {
  return parseMountInfo(readFileSync("/proc/self/mountinfo", "utf8"));
}

/** The topmost mount at exactly `mountpoint` (as {@link resolveMountpoint} gives it), or undefined. */
export function findMount(mountpoint: string): MountInfo | undefined {
  return readMountInfo().findLast((mount) => mount.mountpoint === mountpoint);
}

/**
 * The absolute path of a mount point without symlinks; also where the file system mounted there no longer answers.
 * @throws ENOENT no such path
 */
export function resolveMountpoint(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new NydusError("ENOENT", "Cannot find mount point: no such directory", { path }, { cause: error });
    }
    // A mount whose server is gone fails with ENOTCONN at the mount point itself; the way to it still resolves.
    if (code !== "ENOTCONN" && code !== "ECONNABORTED" && code !== "EIO") throw asNydusError(error, { path });
    return join(realpathSync(dirname(path)), basename(path));
  }
}

/**
 * Checks that something can be mounted at `path`.
 * @returns its absolute path without symlinks
 * @throws ENOENT no such path; EINVAL not a directory; EIO a dead mount is there
 */
export function checkMountpoint(path: string): string {
  const mountpoint = resolveMountpoint(path);
  let isDirectory: boolean;
  try {
    isDirectory = statSync(mountpoint).isDirectory();
  } catch (error) {
    const found = "what is mounted there does not answer; unmount it first";
    throw new NydusError("EIO", `Cannot mount: ${found}`, { path: mountpoint }, { cause: error });
  }
  if (!isDirectory) throw new NydusError("EINVAL", "Cannot mount: not a directory", { path: mountpoint });
  return mountpoint;
}

/** What became of an unmount: "busy" means that someone has files open there. */
export type UnmountResult = "unmounted" | "not-mounted" | "busy";

/**
 * Unmounts what is at `mountpoint`, never following a symlink.
 * @param flags MNT_FORCE aborts the file system's open requests; MNT_DETACH also succeeds while it is in use
 * @throws EPERM without CAP_SYS_ADMIN
 */
export function unmount(mountpoint: string, flags = 0): UnmountResult {
  if (!hasLibc()) return unmountByCommand(mountpoint, flags);
  const errno = libc().umount(mountpoint, flags | UMOUNT_NOFOLLOW);
  if (errno === 0) return "unmounted";
  if (errno === EPERM && process.geteuid?.() !== 0) return unmountAsUser(mountpoint, flags);
  if (errno === EINVAL || errno === ENOENT) return "not-mounted";
  if (errno === EBUSY) return "busy";
  throw systemFailure(errno, "unmount", { path: mountpoint });
}

/** The same by fusermount3, which unmounts what the user has mounted by it. */
function unmountAsUser(mountpoint: string, flags: number): UnmountResult {
  if (findMount(mountpoint) === undefined) return "not-mounted";
  const { status, message } = unmountByFusermount(mountpoint, (flags & MNT_DETACH) !== 0);
  if (status === 0) return "unmounted";
  if (findMount(mountpoint) === undefined) return "not-mounted";
  if (/busy/i.test(message)) return "busy";
  throw new NydusError("EPERM", `Cannot unmount: ${message}`, { path: mountpoint });
}

/** The same by umount(8), for runtimes that cannot call umount2(2). */
function unmountByCommand(mountpoint: string, flags: number): UnmountResult {
  if (findMount(mountpoint) === undefined) return "not-mounted";
  const options = [...((flags & MNT_FORCE) === 0 ? [] : ["-f"]), ...((flags & MNT_DETACH) === 0 ? [] : ["-l"])];
  const { status, error } = spawnSync("umount", ["--no-canonicalize", ...options, "--", mountpoint]);
  if (error !== undefined) throw asNydusError(error, { path: mountpoint });
  if (status === 0) return "unmounted";
  if (process.getuid?.() !== 0) throw new NydusError("EPERM", "Cannot unmount: needs root", { path: mountpoint });
  return findMount(mountpoint) === undefined ? "not-mounted" : "busy";
}
