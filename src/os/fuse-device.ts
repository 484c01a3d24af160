import { closeSync, constants, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { release } from "node:os";
import { NydusError } from "../base/errors.ts";
import { mountByFusermount } from "./fusermount.ts";
import { libc, systemFailure } from "./syscall.ts";

const DEVICE = "/dev/fuse";
const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOEXEC = 8;
const MS_NOATIME = 1024;
const EPERM = 1;
const EAGAIN = 11;

/** How a FUSE file system is mounted; what is undefined is the default of who mounts. */
export interface FuseMountOptions {
  /** What the first column of mount(8) shows. */
  readonly source: string;
  /** Shown as `fuse.<subtype>`. */
  readonly subtype: string;
  /** Longest READ, bytes. */
  readonly maxReadBytes: number;
  /** Honour set-user-id bits and file capabilities. */
  readonly suid: boolean;
  /** Let device nodes be opened. */
  readonly dev: boolean;
  /** Let programs be run. */
  readonly exec: boolean;
  /** Let others than who mounts in. */
  readonly allowOther: boolean;
}

/**
 * Opens /dev/fuse; reading from it does not wait.
 * @throws ENOTSUP the kernel has no FUSE; EPERM not allowed here
 */
function openFuseDevice(): number {
  try {
    return openSync(DEVICE, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    const code = (error as { code?: string }).code;
    const missing = code === "ENOENT" || code === "ENODEV" || code === "ENXIO";
    const message = missing ? "this system has no FUSE" : "opening it needs root or rights on the device";
    throw new NydusError(
      missing ? "ENOTSUP" : "EPERM",
      `Cannot open FUSE device: ${message}`,
      { path: DEVICE },
      { cause: error },
    );
  }
}

/**
 * Mounts a read-only FUSE file system: by mount(2) where that is allowed, else by fusermount3.
 * @returns the descriptor of /dev/fuse that serves it; reading from it does not wait
 * @throws EPERM not allowed, or not by fusermount3; ENOTSUP no FUSE, or no fusermount3; EIO as mount(2) has it
 */
export function mountFuse(mountpoint: string, options: FuseMountOptions): number {
  if (!isRoot()) return mountByFusermount(mountpoint, optionsOf(options));
  const fd = openFuseDevice();
  try {
    mountByCall(fd, mountpoint, options);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Whether mounting is tried without fusermount3. */
function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** What both ways to mount understand. */
function commonData({ maxReadBytes, allowOther }: FuseMountOptions): string[] {
  return [...(allowOther ? ["allow_other"] : []), "default_permissions", `max_read=${maxReadBytes}`];
}

/** As fusermount3 takes them. */
function optionsOf(options: FuseMountOptions): string {
  const { source, subtype, suid, dev, exec } = options;
  // fusermount3 wants commas and backslashes of the name quoted
  const fsname = source.replace(/[\\,]/g, "\\$&");
  const flags = ["ro", "noatime", suid ? "suid" : "nosuid", dev ? "dev" : "nodev", exec ? "exec" : "noexec"];
  return [...commonData(options), `fsname=${fsname}`, `subtype=${subtype}`, ...flags].join(",");
}

function mountByCall(fd: number, mountpoint: string, options: FuseMountOptions): void {
  const { source, subtype, suid, dev, exec } = options;
  const data = [`fd=${fd}`, "rootmode=40000", "user_id=0", "group_id=0", ...commonData(options)].join(",");
  const flags = MS_RDONLY | MS_NOATIME | (suid ? 0 : MS_NOSUID) | (dev ? 0 : MS_NODEV) | (exec ? 0 : MS_NOEXEC);
  const errno = libc().mount({ source, target: mountpoint, type: `fuse.${subtype}`, flags, data });
  if (errno === EPERM) throw new NydusError("EPERM", "Cannot mount: needs root (CAP_SYS_ADMIN)", { path: mountpoint });
  if (errno !== 0) throw systemFailure(errno, "mount", { path: mountpoint });
}

/**
 * Takes the next request, without waiting for one.
 * @returns bytes read into `buffer`; 0 when there is none; -1 when the file system has been unmounted or aborted
 */
export function readFuseRequest(fd: number, buffer: Uint8Array): number {
  const count = libc().readInto(fd, buffer);
  if (count >= 0) return count;
  if (count === -EAGAIN) return 0; // another thread was faster: too common to be an exception
  try {
    return readSync(fd, buffer); // says reliably what it was
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (code === "ENODEV" || code === "ECONNABORTED") return -1;
    // ENOENT: the request was interrupted before it could be read.
    if (code === "EAGAIN" || code === "ENOENT" || code === "EINTR") return 0;
    throw error;
  }
}

/**
 * Writes one reply, the first bytes of `reply`.
 * @returns false when nobody waits for it any more (interrupted, unmounted)
 */
export function writeFuseReply(fd: number, reply: Uint8Array, sizeBytes: number): boolean {
  try {
    writeSync(fd, reply, 0, sizeBytes);
    return true;
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (code === "ENOENT" || code === "ENODEV" || code === "ECONNABORTED" || code === "EPERM") return false;
    // EINVAL: the kernel refuses the reply and fails the request with EIO by itself.
    if (code === "EINVAL") return false;
    throw error;
  }
}

/** FUSE_NOTIFY_RESEND: what has been read and not answered is to be read again (linux/fuse.h, 7.40). */
const NOTIFY_RESEND = 7;
const NOTIFY_BYTES = 16;
/** The first kernel that can. */
const RESEND_KERNEL = [6, 9] as const;
/** Set to 0 to do without, for tests. */
const RESEND_VARIABLE = "NYDUS_FUSE_RESEND";

/** Whether the kernel sends requests again whose reader has died. */
export function canResendFuse(): boolean {
  if (process.env[RESEND_VARIABLE] === "0") return false;
  const [major = 0, minor = 0] = release()
    .split(".")
    .map((part) => Number.parseInt(part, 10));
  return major > RESEND_KERNEL[0] || (major === RESEND_KERNEL[0] && minor >= RESEND_KERNEL[1]);
}

/**
 * Has the kernel send all requests again that were read through a descriptor and not answered. They come as they were,
 * but for a bit in `unique` that the answer must have too.
 * @returns false when the kernel cannot
 */
export function resendFuseRequests(fd: number): boolean {
  const header = new DataView(new ArrayBuffer(NOTIFY_BYTES));
  header.setUint32(0, NOTIFY_BYTES, true);
  header.setInt32(4, NOTIFY_RESEND, true);
  try {
    writeSync(fd, new Uint8Array(header.buffer));
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "EINVAL") return false;
    throw error;
  }
}

/** Lets the kernel read ahead further than its 128 KiB; where that is not allowed, nothing happens. */
export function setReadAhead(minor: number, sizeBytes: number): void {
  try {
    writeFileSync(`/sys/class/bdi/0:${minor}/read_ahead_kb`, String(sizeBytes / 1024));
  } catch {
    // sysfs is missing or read-only in many containers: reads stay shorter, nothing else
  }
}

/**
 * Ends a connection whose mount may no longer be reached: its readers get errors, its servers get 0 requests.
 * @param minor minor number of the file system's device
 * @returns false when that is not allowed here, or the connection is gone
 */
export function abortFuseConnection(minor: number): boolean {
  if (abortBelow("/sys/fs/fuse/connections", minor)) return true;
  // Many containers do not have the control file system mounted.
  const { fd } = libc().fsMount("fusectl");
  if (fd === undefined) return false;
  try {
    return abortBelow(`/proc/self/fd/${fd}`, minor);
  } finally {
    closeSync(fd);
  }
}

function abortBelow(control: string, minor: number): boolean {
  try {
    // Without O_CREAT: where fusectl is not mounted there must not be a file.
    const fd = openSync(`${control}/${minor}/abort`, "r+");
    try {
      writeSync(fd, "1");
      return true;
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}
