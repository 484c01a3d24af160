import type { Lab } from "./lab.ts";

/** Reads every file below `$0`. */
export const READ_ALL = 'find "$0" -type f -exec cat {} + >/dev/null';
/** Looks at every inode below `$0`. */
export const LIST_ALL = String.raw`find "$0" -printf '%p %y %m %s %T@ %l\n' >/dev/null`;

/** Seconds of a pass over a mount, the kernel's caches emptied before. @param script {@link READ_ALL} or such */
export async function timePass(lab: Lab, script: string, mountpoint: string): Promise<number> {
  await lab.dropCaches();
  return (await lab.run(["sh", "-c", script, mountpoint])).seconds;
}
