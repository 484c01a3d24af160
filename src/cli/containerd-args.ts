import type { ArgsDef } from "citty";
import { type ContainerdPlace, DEFAULT_CONTAINERD } from "../content/containerd/place.ts";
import { checkSnapshotterName, DEFAULT_SNAPSHOTTER } from "../content/containerd/snapshotters.ts";
import type { Preparation, SnapshotterChoice } from "../operation/image/containerd-prepare.ts";
import { printStderr } from "./output.ts";

/** Flags of commands that may speak to containerd, as nerdctl and ctr have them. */
export const CONTAINERD_ARGS = {
  namespace: {
    type: "string",
    alias: "n",
    valueHint: "NAME",
    description: "containerd's namespace (env CONTAINERD_NAMESPACE, default default)",
  },
  address: {
    type: "string",
    alias: "a",
    valueHint: "SOCKET",
    description: `containerd's socket (env CONTAINERD_ADDRESS, default ${DEFAULT_CONTAINERD.address})`,
  },
} as const satisfies ArgsDef;

/** Flags of commands that may write an image to containerd. */
export const PREPARE_ARGS = {
  snapshotter: {
    type: "string",
    valueHint: "NAME",
    description: `Snapshotter to prepare the image for (env CONTAINERD_SNAPSHOTTER, default ${DEFAULT_SNAPSHOTTER})`,
  },
  "no-unpack": { type: "boolean", description: "Only store the image in containerd, make no snapshots" },
} as const satisfies ArgsDef;

/** What {@link CONTAINERD_ARGS} give. */
export interface ContainerdArguments {
  readonly namespace?: string | undefined;
  readonly address?: string | undefined;
}

/** What {@link PREPARE_ARGS} give. */
export interface PrepareArguments {
  readonly snapshotter?: string | undefined;
  readonly "no-unpack"?: boolean | undefined;
}

/** The containerd that flags and environment mean. */
export function containerdPlace(args: ContainerdArguments): ContainerdPlace {
  const address = args.address ?? variable("CONTAINERD_ADDRESS") ?? DEFAULT_CONTAINERD.address;
  const namespace = args.namespace ?? variable("CONTAINERD_NAMESPACE") ?? DEFAULT_CONTAINERD.namespace;
  return { address: address.replace(/^unix:\/\//, ""), namespace };
}

/** What an image in containerd is to be prepared for. @returns undefined for nothing @throws EINVAL a bad name */
export function snapshotterChoice(args: PrepareArguments): SnapshotterChoice | undefined {
  return args["no-unpack"] === true ? undefined : chosenSnapshotter(args);
}

/** The snapshotter that a flag or the environment names, or the default one. @throws EINVAL a bad name */
export function chosenSnapshotter({ snapshotter }: PrepareArguments): SnapshotterChoice {
  const named = snapshotter ?? variable("CONTAINERD_SNAPSHOTTER");
  return { snapshotter: checkSnapshotterName(named ?? DEFAULT_SNAPSHOTTER), isChosen: named !== undefined };
}

function variable(name: string): string | undefined {
  const value = process.env[name];
  return value === "" ? undefined : value;
}

/** Says where an image is stored but cannot be run, and what to do. */
export function printPreparation(prepared: Preparation | undefined): void {
  if (prepared === undefined || prepared.isReady) return;
  const { image, reason = "" } = prepared;
  const what = `${image} is stored in containerd, but it cannot be run yet: ${reason}`;
  printStderr(`nydus: ${what}; see 'nydus install --help', then 'nydus prepare ${image}'\n`);
}
