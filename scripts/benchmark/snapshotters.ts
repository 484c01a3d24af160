import { chmodSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PEERS_DIR } from "../../test/kit/peers.ts";
import { containerdSocketOf, type Snapshotter, socketOf } from "./containerd.ts";
import type { Lab } from "./lab.ts";

/** containerd's own, for images without lazy loading. */
export const OVERLAYFS: Snapshotter = { name: "overlayfs" };

/** The peer, where `scripts/peers` has built it. */
export const PEER_PROGRAM = join(PEERS_DIR, "containerd-nydus-grpc");

/** `nydus snapshotter` as its help and systemd unit have it. */
export function ourSnapshotter(lab: Lab): Snapshotter {
  const program = (dir: string): string[] => [lab.nydus, "--root", join(dir, "nydus")];
  const command = (dir: string): string[] => {
    const places = ["--address", socketOf(dir), "--containerd-address", containerdSocketOf(dir)];
    return [...program(dir), "snapshotter", ...places];
  };
  return { name: "nydus", command, end: (dir) => [...program(dir), "daemon", "stop"], program: lab.nydus };
}

/** How nydus-snapshotter and its nydusd are configured. */
export interface PeerChoice {
  /** One nydusd for all images, started with the snapshotter, or one for each. */
  readonly daemonMode: "shared" | "dedicated";
  /** Whether nydusd brings the whole image in the background, as the sample of its configuration has it. */
  readonly prefetchAll: boolean;
}

/** nydus-snapshotter; undefined where it or nydusd is not there. */
export function peerSnapshotter(lab: Lab, choice: PeerChoice): Snapshotter | undefined {
  const { peers } = lab.options;
  if (peers === undefined || !existsSync(PEER_PROGRAM)) return undefined;
  const command = (dir: string): string[] => {
    mkdirSync(join(dir, "peer"));
    const nydusd = join(dir, "peer", "nydusd.sh"); // nydusd may not raise its limits here
    writeFileSync(nydusd, `#!/bin/sh\nexec ${peers.nydusd} "$@" --rlimit-nofile 0\n`);
    chmodSync(nydusd, 0o755);
    writeFileSync(join(dir, "peer", "nydusd.json"), nydusdConfig(choice));
    const config = join(dir, "peer", "config.toml");
    writeFileSync(config, peerConfig(dir, { ...choice, nydusd, nydusImage: peers.nydusImage }));
    return [PEER_PROGRAM, "--config", config];
  };
  return { name: "nydus", command };
}

/** The sample of its documentation (`misc/snapshotter/config.toml`), but for paths, cgroup and what it reports to. */
function peerConfig(dir: string, peer: PeerChoice & { readonly nydusd: string; readonly nydusImage: string }): string {
  return `version = 1
root = "${dir}/peer/root"
address = "${socketOf(dir)}"
daemon_mode = "${peer.daemonMode}"
[system]
  enable = true
  address = "${dir}/peer/system.sock"
[daemon]
  nydusd_config = "${dir}/peer/nydusd.json"
  nydusd_path = "${peer.nydusd}"
  nydusimage_path = "${peer.nydusImage}"
  fs_driver = "fusedev"
  recover_policy = "restart"
  threads_number = 4
  failover_policy = "resend"
[log]
  log_to_stdout = false
  level = "info"
[cache_manager]
  disable = false
  gc_period = "24h"
`;
}

/** The sample of its documentation (`misc/snapshotter/nydusd-config.fusedev.json`), for a registry without TLS. */
function nydusdConfig({ prefetchAll }: PeerChoice): string {
  return JSON.stringify({
    device: {
      backend: {
        type: "registry",
        config: { scheme: "http", timeout: 5, connect_timeout: 5, retry_limit: 2 },
      },
      cache: { type: "blobcache" },
    },
    mode: "direct",
    digest_validate: false,
    iostats_files: false,
    enable_xattr: true,
    amplify_io: 1048576,
    fs_prefetch: { enable: prefetchAll, threads_count: 8, merging_size: 1048576, prefetch_all: prefetchAll },
  });
}
