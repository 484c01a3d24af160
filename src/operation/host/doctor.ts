import type { Check } from "./checks.ts";
import { CONTAINERD_CHECKS } from "./containerd-checks.ts";
import { ENGINE_CHECKS } from "./engine-checks.ts";
import { KERNEL_CHECKS } from "./kernel-checks.ts";
import { STATE_CHECKS } from "./state-checks.ts";
import { MOUNT_CHECKS } from "./test-mount.ts";

/**
 * All checks in the order in which they are shown.
 * @param others of floors above, after those of the state directory
 */
export function allChecks(others: readonly Check[]): readonly Check[] {
  return [...KERNEL_CHECKS, ...STATE_CHECKS, ...others, ...ENGINE_CHECKS, ...MOUNT_CHECKS, ...CONTAINERD_CHECKS];
}
