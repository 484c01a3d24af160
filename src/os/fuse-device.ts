import { closeSync, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { NydusError } from "../base/errors.ts";
import { libc, systemFailure } from "./syscall.ts";

const DEVICE = "/dev/fuse";
/** _IOR(229, 0, u32) of linux/fuse.h. */
const FUSE_DEV_IOC_CLONE = 0x8004e500;
const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOATIME = 1024;
const EPERM = 1;

/** How a FUSE file system is mounted. */
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
}

/**
 * Opens /dev/fuse.
 * @throws ENOTSUP the kernel has no FUSE; EPERM not allowed here
 */
export function openFuseDevice(): number {
  try {
    return openSync(DEVICE, "r+");
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
 * Mounts a read-only FUSE file system that is served through `fd`, an unused descriptor of /dev/fuse.
 * @throws EPERM without CAP_SYS_ADMIN; EIO as mount(2) has it
 */
export function mountFuse(fd: number, mountpoint: string, options: FuseMountOptions): void {
  const data = [
    `fd=${fd}`,
    "rootmode=40000",
    "user_id=0",
    "group_id=0",
    "allow_other",
    "default_permissions",
    `max_read=${options.maxReadBytes}`,
  ].join(",");
  const flags = MS_RDONLY | MS_NOATIME | (options.suid ? 0 : MS_NOSUID) | (options.dev ? 0 : MS_NODEV);
  const type = `fuse.${options.subtype}`;
  const errno = libc().mount({ source: options.source, target: mountpoint, type, flags, data });
  if (errno === EPERM) throw new NydusError("EPERM", "Cannot mount: needs root (CAP_SYS_ADMIN)", { path: mountpoint });
  if (errno !== 0) throw systemFailure(errno, "mount", { path: mountpoint });
}

/** A further descriptor of a mounted connection, with its own list of requests in hand. */
export function cloneFuseDevice(fd: number): number {
  const clone = openFuseDevice();
  const errno = libc().ioctlU32(clone, FUSE_DEV_IOC_CLONE, fd);
  if (errno === 0) return clone;
  closeSync(clone);
  throw systemFailure(errno, "clone FUSE descriptor");
}

/**
 * Waits for the next request; blocks the thread.
 * @returns bytes read into `buffer`, or 0 when the file system has been unmounted or aborted
 */
export function readFuseRequest(fd: number, buffer: Uint8Array): number {
  for (;;) {
    try {
      return readSync(fd, buffer);
    } catch (error) {
      const code = (error as { code?: string }).code;
      if (code === "ENODEV" || code === "ECONNABORTED") return 0;
      // ENOENT: the request was interrupted before it could be read.
      if (code !== "EINTR" && code !== "ENOENT" && code !== "EAGAIN") throw error;
    }
  }
}

/**
 * Writes one reply to the descriptor that its request was read from.
 * @returns false when nobody waits for it any more (interrupted, unmounted)
 */
export function writeFuseReply(fd: number, reply: Uint8Array): boolean {
  try {
    writeSync(fd, reply);
    return true;
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (code === "ENOENT" || code === "ENODEV" || code === "ECONNABORTED" || code === "EPERM") return false;
    // EINVAL: the kernel refuses the reply and fails the request with EIO by itself.
    if (code === "EINVAL") return false;
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
