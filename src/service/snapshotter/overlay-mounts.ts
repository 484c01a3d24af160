import type { ContainerdMount } from "../../format/containerd/snapshots-schema.ts";

/** The directories of a snapshot, as they are put together. */
export interface Stack {
  /** Where it is written to, unless it is a view. */
  readonly upper?: { readonly dir: string; readonly workDir: string } | undefined;
  /** What it shows below that, the highest first. */
  readonly lowers: readonly string[];
}

/** A directory as it is, at the mount point. */
export function bindMount(dir: string, access: "rw" | "ro"): ContainerdMount {
  return { type: "bind", source: dir, target: "", options: [access, "rbind"] };
}

/**
 * What shows a stack: a bind mount where one directory is all of it, else an overlay. containerd mounts it; where its
 * options outgrow a page, it changes into the directory that all lower ones share.
 * @param overlayOptions options that this kernel wants
 */
export function stackMounts({ upper, lowers }: Stack, overlayOptions: readonly string[]): ContainerdMount[] {
  const [highest, ...others] = lowers;
  if (upper !== undefined && highest === undefined) return [bindMount(upper.dir, "rw")];
  if (upper === undefined && highest !== undefined && others.length === 0) return [bindMount(highest, "ro")];
  const written = upper === undefined ? [] : [`workdir=${upper.workDir}`, `upperdir=${upper.dir}`];
  const options = [...written, `lowerdir=${lowers.join(":")}`, ...overlayOptions];
  return [{ type: "overlay", source: "overlay", target: "", options }];
}
