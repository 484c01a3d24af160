import { existsSync, readFileSync } from "node:fs";

/** Where the kernel shows whether overlayfs knows of an index. */
const INDEX_PARAMETER = "/sys/module/overlay/parameters/index";
const UID_MAP = "/proc/self/uid_map";
/** The map of a process that is in no user namespace of its own. */
const WHOLE_MAP = /^\s*0\s+0\s+4294967295\s*$/;

/**
 * Options that every overlay mount of containers wants on this kernel: no index, as lower directories are shared by
 * many; and in a user namespace attributes that its root may write.
 */
export function overlayOptions(): string[] {
  return [...(isInUserNamespace() ? ["userxattr"] : []), ...(existsSync(INDEX_PARAMETER) ? ["index=off"] : [])];
}

function isInUserNamespace(): boolean {
  try {
    return !WHOLE_MAP.test(readFileSync(UID_MAP, "utf8"));
  } catch {
    return false; // a kernel without user namespaces
  }
}
