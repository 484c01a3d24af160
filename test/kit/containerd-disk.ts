import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SNAPSHOTS_SERVICE } from "../../src/format/containerd/snapshots-schema.ts";
import { GrpcClient } from "../../src/os/grpc.ts";
import type { ContainerdHost } from "./containerd.ts";
import { type GoldenImage, layersOf } from "./containerd-images.ts";
import { mountsBelow } from "./leftovers.ts";

/** The servers; and what a containerd that dies while it starts a container loses for ever. */
const KEPT_PROCESSES = / (snapshotter --address|--config) |containerd-shim|_NERDCTL_INTERNAL_LOGGING/;

/** What is not as the model has it. */
export class ModelError extends Error {}

/**
 * Whether each snapshot has a directory: the two are not looked at in one moment.
 * @param tops last parts of names of snapshots that must be there
 * @throws ModelError one is missing, or what it stands on
 */
export async function haveDirectories(host: ContainerdHost, tops: readonly string[]): Promise<boolean> {
  const parents = await snapshotParents(host);
  for (const top of tops) {
    if (![...parents.keys()].some((key) => key.endsWith(`/${top}`))) throw new ModelError(`snapshot ${top} is missing`);
  }
  for (const [name, parent] of parents) {
    if (parent !== "" && !parents.has(parent)) throw new ModelError(`${name} stands on ${parent}, which is missing`);
  }
  return names(join(host.root, "snapshotter", "snapshots")).length >= parents.size;
}

/** What each snapshot stands on, as the snapshotter itself says. */
async function snapshotParents(host: ContainerdHost): Promise<Map<string, string>> {
  using client = new GrpcClient(host.snapshotterAddress);
  const parents = new Map<string, string>();
  for await (const { info } of client.stream(SNAPSHOTS_SERVICE, "List", { filters: [] })) {
    for (const { name, parent } of info as { name: string; parent: string }[]) parents.set(name, parent);
  }
  return parents;
}

/** Files of the cached blobs of an image. */
export function cachesOf({ root }: ContainerdHost, image: GoldenImage): string[] {
  const layers = layersOf(image).filter(({ isData }) => isData);
  const hexes = layers.map(({ digest }) => digest.slice("sha256:".length));
  return names(join(root, "cache")).filter((name) => hexes.some((hex) => name === `${hex}.data`));
}

/** What is there though nothing needs it, when there are neither images nor containers. */
export function remainsOf(host: ContainerdHost): string[] {
  const { dir, root } = host;
  const left = (folder: string, keep = /^$/): string[] =>
    names(join(root, folder))
      .filter((name) => !keep.test(name))
      .map((name) => `${folder}/${name}`);
  const processes = host.processes().map(commandLine);
  return [
    ...mountsBelow(dir),
    ...["snapshotter/snapshots", "snapshotter/removed", "snapshotter/damaged", "bootstraps"].flatMap((one) =>
      left(one),
    ),
    ...left("cache", /\.lock$/),
    ...left("mounts"),
    ...processes.filter((line) => line !== "" && !KEPT_PROCESSES.test(line)),
  ];
}

function names(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir) : [];
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return ""; // gone
  }
}
