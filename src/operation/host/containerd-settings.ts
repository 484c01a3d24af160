import { NydusError } from "../../base/errors.ts";

/** Where the snapshotter listens unless told otherwise: where the peers' does. */
export const DEFAULT_SNAPSHOTTER_ADDRESS = "/run/containerd-nydus/containerd-nydus-grpc.sock";
/** Where containerd has its configuration unless told otherwise. */
export const DEFAULT_CONFIG_PATH = "/etc/containerd/config.toml";
/** What containerd calls the snapshotter. */
export const SNAPSHOTTER_NAME = "nydus";

/** A release of containerd. */
export interface ContainerdVersion {
  readonly major: number;
  readonly minor: number;
}

type Values = Readonly<Record<string, string | boolean>>;

/** What the configuration is to say. */
export type Setting =
  | {
      readonly kind: "table";
      readonly path: readonly string[];
      readonly values: Values;
      /** Whether a value that is there already gives way. */
      readonly replaces: boolean;
    }
  | {
      readonly kind: "array";
      readonly path: readonly string[];
      readonly element: Values;
      /** What containerd assumes where there is no such array, and no longer once there is one. */
      readonly assumed: Values;
    };

/** What is to be installed. */
export interface SettingsRequest {
  readonly containerd: ContainerdVersion;
  /** Version of the configuration file; 1 is what a file without one has. */
  readonly configVersion: number;
  /** Of the snapshotter's socket. */
  readonly address: string;
  /** Also for Kubernetes. */
  readonly cri: boolean;
  /** `os/arch`, of this machine. */
  readonly platform: string;
  /** Where snapshots are kept, which CRI measures. */
  readonly root?: string | undefined;
}

/** Releases below are not known, and had no remote snapshots that could be trusted. */
const OLDEST: ContainerdVersion = { major: 1, minor: 4 };
/** From this release on pulls go through the transfer service, and configurations may be of version 3. */
const TRANSFER_MAJOR = 2;
const CRI_PLUGIN = "io.containerd.grpc.v1.cri";
const IMAGES_PLUGIN = "io.containerd.cri.v1.images";
const TRANSFER_PLUGIN = "io.containerd.transfer.v1.local";

/** The version of a configuration that is made for a release. */
export function newestConfigVersion({ major }: ContainerdVersion): number {
  return major >= TRANSFER_MAJOR ? 3 : 2;
}

/**
 * A release from what `containerd --version` prints, or from a person.
 * @returns undefined when there is none in it
 */
export function parseContainerdVersion(text: string): ContainerdVersion | undefined {
  const words = text.trim().split(/\s+/);
  const found = words.map((word) => /^v?(\d+)\.(\d+)(?:\D|$)/.exec(word)).find((match) => match !== null);
  return found ? { major: Number(found[1]), minor: Number(found[2]) } : undefined;
}

/**
 * What a configuration needs for the snapshotter.
 * @throws ENOTSUP a release or a version of the configuration that cannot have it
 */
export function containerdSettings(request: SettingsRequest): readonly Setting[] {
  const { containerd, configVersion, address } = request;
  checkVersions(request);
  const isModern = containerd.major >= TRANSFER_MAJOR;
  const plugin = ["proxy_plugins", SNAPSHOTTER_NAME];
  return [
    { kind: "table", path: plugin, values: { type: "snapshot", address }, replaces: false },
    ...(isModern ? transferSettings(request, plugin) : []),
    ...(request.cri ? [criSetting(configVersion)] : []),
  ];
}

function checkVersions({ containerd, configVersion, cri }: SettingsRequest): void {
  const { major, minor } = containerd;
  if (major < OLDEST.major || (major === OLDEST.major && minor < OLDEST.minor)) {
    throw new NydusError("ENOTSUP", `Cannot install for containerd ${major}.${minor}: 1.6 or later is wanted`);
  }
  const newest = newestConfigVersion(containerd);
  if (configVersion < 1 || configVersion > newest) {
    const found = `the configuration is of version ${configVersion}, containerd ${major}.${minor} reads 1 to ${newest}`;
    throw new NydusError("ENOTSUP", `Cannot install: ${found}`);
  }
  if (cri && configVersion < 2) {
    const hint = "write it anew by 'containerd config migrate', or begin it with 'version = 2'";
    throw new NydusError("ENOTSUP", `Cannot set up CRI in a configuration of version 1: ${hint}`);
  }
}

/** Without the export, pulls pass no annotations; without the unpacker, they do not unpack for this snapshotter. */
function transferSettings({ platform, root }: SettingsRequest, plugin: readonly string[]): Setting[] {
  const differ = "walking";
  return [
    {
      kind: "table",
      path: [...plugin, "exports"],
      values: { enable_remote_snapshot_annotations: "true", ...(root !== undefined && { root }) },
      replaces: true,
    },
    {
      kind: "array",
      path: ["plugins", TRANSFER_PLUGIN, "unpack_config"],
      element: { platform, snapshotter: SNAPSHOTTER_NAME, differ },
      assumed: { platform, snapshotter: "overlayfs", differ },
    },
  ];
}

/** Images for pods are unpacked by this snapshotter, and it is told where they come from. */
function criSetting(configVersion: number): Setting {
  const path = configVersion >= 3 ? ["plugins", IMAGES_PLUGIN] : ["plugins", CRI_PLUGIN, "containerd"];
  const values = { snapshotter: SNAPSHOTTER_NAME, disable_snapshot_annotations: false };
  return { kind: "table", path, values, replaces: true };
}
