import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Containerd } from "./peers.ts";

/** Plugins that need programs or kernels that a test machine may lack, or that look at the whole machine. */
const DISABLED = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
];

/** Writes `config.toml` and `nerdctl.toml` into `dir`: everything of this containerd is below it. */
export function writeContainerdConfig(dir: string, containerd: Containerd): void {
  writeFileSync(join(dir, "config.toml"), configToml(dir, containerd));
  writeFileSync(join(dir, "nerdctl.toml"), nerdctlToml(dir));
}

function configToml(dir: string, { configVersion }: Containerd): string {
  return `version = ${configVersion}
root = "${dir}/containerd"
state = "${dir}/state"
disabled_plugins = ${JSON.stringify(DISABLED)}
[grpc]
  address = "${dir}/containerd.sock"
[proxy_plugins.nydus]
  type = "snapshot"
  address = "${dir}/snapshotter.sock"
${configVersion === 3 ? transferService(dir) : ""}`;
}

/** What containerd 2 needs so that pulls by its own transfer service (ctr) tell the snapshotter what it pulls. */
function transferService(dir: string): string {
  const arch = process.arch === "x64" ? "amd64" : process.arch;
  return `[proxy_plugins.nydus.exports]
  root = "${dir}/nydus"
  enable_remote_snapshot_annotations = "true"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/${arch}"
  snapshotter = "nydus"
  differ = "walking"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/${arch}"
  snapshotter = "overlayfs"
`;
}

/** No network plugins are needed: containers run with `--net none` or `--net host`. */
function nerdctlToml(dir: string): string {
  return `data_root = "${dir}/nerdctl"
cni_path = "${dir}/cni/bin"
cni_netconfpath = "${dir}/cni/conf"
cgroup_manager = "cgroupfs"
insecure_registry = true
address = "${dir}/containerd.sock"
snapshotter = "nydus"
`;
}
