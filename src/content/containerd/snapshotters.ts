import { NydusError } from "../../base/errors.ts";
import { INTROSPECTION_SERVICE } from "../../format/containerd/introspection-schema.ts";
import type { Message } from "../../os/grpc.ts";
import type { Containerd } from "./connection.ts";

/** The snapshotter that runs Nydus images, as everyone calls it. */
export const DEFAULT_SNAPSHOTTER = "nydus";

const PLUGIN_TYPE = "io.containerd.snapshotter.v1";
/** As containerd has its identifiers (pkg/identifiers): nothing that a filter would read as more than a name. */
const SNAPSHOTTER = /^(?=.{1,76}$)[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;

/** A snapshotter's name. @throws EINVAL */
export function checkSnapshotterName(name: string): string {
  if (SNAPSHOTTER.test(name)) return name;
  const shown = JSON.stringify(name.slice(0, 80));
  throw new NydusError("EINVAL", `Cannot use snapshotter ${shown}: a name is letters, digits, ".", "_" and "-"`);
}

/** Whether containerd has a snapshotter of a name; one that is a program of its own may be there and not run. */
export async function hasSnapshotter(containerd: Containerd, name: string, signal?: AbortSignal): Promise<boolean> {
  const filters = [`type==${PLUGIN_TYPE},id==${checkSnapshotterName(name)}`];
  const { plugins } = await containerd.call(INTROSPECTION_SERVICE, "Plugins", { filters }, { signal });
  return ((plugins ?? []) as Message[]).some(({ initErr }) => initErr === null || initErr === undefined);
}
