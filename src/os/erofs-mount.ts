import { closeSync, existsSync, fstatSync, readdirSync, readSync, writeFileSync } from "node:fs";
import { NydusError } from "../base/errors.ts";
import { errnoName, hasLibc, libc, systemFailure } from "./syscall.ts";

const SYSFS = "/sys/fs/erofs";
const FEATURES = "features";
const MOUNT_ATTR_RDONLY = 0x1;
const MOUNT_ATTR_NOSUID = 0x2;
const MOUNT_ATTR_NODEV = 0x4;
const MOUNT_ATTR_NOEXEC = 0x8;
const MOUNT_ATTR_NOATIME = 0x10;
const EPERM = 1;
const ENODEV = 19;
const ENOTBLK = 15;
const EINVAL = 22;
const LOG_BYTES = 1024;

/** How an EROFS image is mounted. */
export interface ErofsMountOptions {
  readonly mountpoint: string;
  /** Descriptors of the image and of its devices, in the order of slots: the kernel opens their files anew. */
  readonly imageFd: number;
  readonly deviceFds: readonly number[];
  /** Honour set-user-id bits and file capabilities. */
  readonly suid: boolean;
  /** Let device nodes be opened. */
  readonly dev: boolean;
  /** Let programs be run. */
  readonly exec: boolean;
  /** Called when the file system is there, and nobody can see it yet; what it throws ends it. */
  readonly onMade?: ((made: MadeErofs) => void) | undefined;
}

/** A file system that has been made. */
export interface MadeErofs {
  readonly names: SuperblockNames;
  /** Of its device number, as in mountinfo. */
  readonly minor: number;
}

/** Names by which a mounted file system is known to live; empty where the kernel does not tell. */
export type SuperblockNames = readonly string[];

/**
 * Mounts an EROFS image from files by the kernel's driver: one call a device, so that any number of them fits.
 * @returns names for {@link isSuperblockAlive}, and its device number
 * @throws ENOTSUP no EROFS, or not from files; EPERM; what the driver says of the image
 */
export function mountErofs(options: ErofsMountOptions): MadeErofs {
  if (!hasLibc()) throw new NydusError("ENOTSUP", "Cannot mount EROFS: this runtime has no way to");
  const place = { path: options.mountpoint };
  const { errno, fd: context } = libc().fsOpen("erofs");
  if (errno === ENODEV) throw new NydusError("ENOTSUP", "Cannot mount: this kernel has no EROFS", place);
  if (errno === EPERM) throw new NydusError("EPERM", "Cannot mount: needs root (CAP_SYS_ADMIN)", place);
  if (context === undefined) throw systemFailure(errno, "mount (fsopen)", place);
  const before = new Set(superblockNames());
  let mountFd: number | undefined;
  try {
    configure(context, options);
    mountFd = createMount(context, options);
    const made = {
      names: superblockNames().filter((name) => !before.has(name)),
      minor: minorOf(fstatSync(mountFd).dev),
    };
    options.onMade?.(made);
    const moved = libc().moveMount(mountFd, options.mountpoint);
    if (moved !== 0) throw systemFailure(moved, "mount (move_mount)", place);
    return made;
  } finally {
    if (mountFd !== undefined) closeSync(mountFd);
    closeSync(context);
  }
}

/** As the kernel encodes a device number for user space. */
function minorOf(dev: number): number {
  return (dev % 256) + (Math.floor(dev / 2 ** 20) % 2 ** 12) * 256;
}

function configure(context: number, { imageFd, deviceFds, mountpoint }: ErofsMountOptions): void {
  const settings: readonly (readonly [string, string?])[] = [
    ["source", `/proc/self/fd/${imageFd}`],
    ...deviceFds.map((fd) => ["device", `/proc/self/fd/${fd}`] as const),
    ["ro"],
  ];
  for (const [key, value] of settings) {
    const errno = libc().fsConfig(context, key, value);
    if (errno !== 0) throw failure(errno, context, mountpoint);
  }
}

function createMount(context: number, { suid, dev, exec, mountpoint }: ErofsMountOptions): number {
  const errno = libc().fsConfig(context);
  if (errno !== 0) throw failure(errno, context, mountpoint);
  const attributes =
    MOUNT_ATTR_RDONLY |
    MOUNT_ATTR_NOATIME |
    (suid ? 0 : MOUNT_ATTR_NOSUID) |
    (dev ? 0 : MOUNT_ATTR_NODEV) |
    (exec ? 0 : MOUNT_ATTR_NOEXEC);
  const mounted = libc().fsMountFd(context, attributes);
  if (mounted.fd === undefined) throw failure(mounted.errno, context, mountpoint);
  return mounted.fd;
}

/** Why the driver refused, in its own words where it has some; most are in the kernel's log alone. */
function failure(errno: number, context: number, path: string): NydusError {
  const name = errnoName(errno);
  if (errno === ENOTBLK)
    return new NydusError("ENOTSUP", "Cannot mount EROFS: this kernel needs block devices", { path });
  const message = readLog(context);
  const isImage = errno === EINVAL || name === "EUCLEAN" || name === "EOPNOTSUPP";
  if (!isImage) return systemFailure(errno, "mount EROFS", { path });
  return new NydusError("EUCLEAN", `Cannot mount EROFS: ${name}${message === "" ? "" : `: ${message}`}`, { path });
}

/** Messages of fsopen(2)'s log: "e text". */
function readLog(context: number): string {
  const buffer = new Uint8Array(LOG_BYTES);
  const lines: string[] = [];
  try {
    for (;;) lines.push(new TextDecoder().decode(buffer.subarray(0, readSync(context, buffer))).trim());
  } catch {
    return lines.join("; "); // ENODATA: that was all
  }
}

/** EROFS file systems that live in this kernel, mounted in a tree or not. */
function superblockNames(): string[] {
  try {
    return readdirSync(SYSFS).filter((name) => name !== FEATURES);
  } catch {
    return [];
  }
}

/**
 * Whether the file system may still be read: also through files that are open after it was unmounted, and from other
 * mount namespaces.
 * @returns undefined where the kernel does not tell
 */
export function isSuperblockAlive(names: SuperblockNames): boolean | undefined {
  return names.length === 0 ? undefined : names.some((name) => existsSync(`${SYSFS}/${name}`));
}

/** Lets the kernel read ahead further than its 128 KiB; where that is not allowed, nothing happens. */
export function setErofsReadAhead(names: SuperblockNames, sizeBytes: number): void {
  if (names.length !== 1) return; // among several it is not known which is ours
  try {
    writeFileSync(`/sys/class/bdi/${names[0]}/read_ahead_kb`, String(sizeBytes / 1024));
  } catch {
    // sysfs is missing or read-only in many containers: reads stay shorter, nothing else
  }
}
