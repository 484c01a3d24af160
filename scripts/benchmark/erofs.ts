import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { ErofsReader } from "../../src/format/erofs/reader.ts";
import { mountErofs } from "../../src/os/erofs-mount.ts";
import { Missing } from "./benchmark.ts";
import type { Lab } from "./lab.ts";
import { isMounted, type Mounted } from "./mounts.ts";
import { runCommand } from "./process.ts";

/** The first Linux that asks before it reads a file (FAN_PRE_ACCESS). */
const OLDEST_KERNEL = [6, 14] as const;

/** Whether a kernel's release, as uname(1) has it, is at least that version. */
export function isKernelSince(version: readonly [number, number], found: string): boolean {
  const [major = 0, minor = 0] = found.split(/[.-]/).map(Number);
  return major > version[0] || (major === version[0] && minor >= version[1]);
}

/** @throws Missing where images cannot be mounted by the kernel's own driver */
export function needErofs(): void {
  if (!isKernelSince(OLDEST_KERNEL, release())) {
    throw new Missing(`the EROFS engine needs Linux ${OLDEST_KERNEL.join(".")}, this is ${release()}`);
  }
  if (!/\berofs$/m.test(readFileSync("/proc/filesystems", "utf8"))) throw new Missing("this kernel has no EROFS");
}

/**
 * Mounts an image by the kernel alone: nobody is asked, so that every data file must be full.
 * @param dataDir has the uncompressed data of each device, `<blob id>.data`
 */
export async function mountPlain(lab: Lab, bootstrap: string, dataDir: string): Promise<Mounted> {
  const mountpoint = join(lab.scratch(), "mnt");
  mkdirSync(mountpoint);
  const { devices } = new ErofsReader(readFileSync(bootstrap));
  const fds: number[] = [];
  try {
    for (const path of [bootstrap, ...devices.map(({ tag }) => join(dataDir, `${tag}.data`))]) {
      fds.push(openSync(path, "r"));
    }
    const [imageFd = -1, ...deviceFds] = fds;
    mountErofs({ mountpoint, imageFd, deviceFds, suid: false, dev: false, exec: true });
  } finally {
    for (const fd of fds) closeSync(fd);
  }
  const release = async (): Promise<void> => {
    if (isMounted(mountpoint)) await runCommand(["umount", mountpoint]);
  };
  return lab.own({ mountpoint, pids: () => [], [Symbol.asyncDispose]: release });
}
