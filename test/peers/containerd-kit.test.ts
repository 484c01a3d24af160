import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { ContainerdHost } from "../kit/containerd.ts";
import { pushGolden } from "../kit/containerd-images.ts";
import { startDockerRegistry } from "../kit/docker-registry.ts";
import {
  cgroupsNamed,
  deadShimSockets,
  fifoDirs,
  mountsBelow,
  processesOf,
  unusedFifosSince,
} from "../kit/leftovers.ts";
import { BUSYBOX, findContainerds, missingPeers } from "../kit/peers.ts";

/** Everything that a host can leave on this machine. */
function leftovers({ dir, namespace }: ContainerdHost): Record<string, readonly unknown[]> {
  return {
    processes: processesOf(dir),
    mounts: mountsBelow(dir),
    cgroups: cgroupsNamed(namespace),
    directories: [dir, `/run/containerd/runc/${namespace}`].filter(existsSync),
  };
}

describe.skipIf(missingPeers().length > 0)("a test's containerd", () => {
  test.each(findContainerds())("$name leaves nothing when it is closed with containers running", async (containerd) => {
    const before = { sockets: deadShimSockets(), fifos: fifoDirs() };
    await using registry = await startDockerRegistry();
    const image = await pushGolden(registry.host, "oci");
    const host = await ContainerdHost.start(containerd);
    try {
      const sleeper = ["--net", "none", "-v", `${BUSYBOX}:/busybox:ro`, image, "/busybox", "sleep", "1000"];
      await host.ok("nerdctl", "--snapshotter", "overlayfs", "run", "-d", ...sleeper);
      const id = await host.ok("nerdctl", "run", "-d", ...sleeper);
      await host.ok("nerdctl", "exec", id, "/busybox", "true");
      expect(mountsBelow(host.dir).length).toBeGreaterThanOrEqual(2);
      expect(cgroupsNamed(host.namespace).length).toBeGreaterThan(0);
      expect(host.processes().length).toBeGreaterThanOrEqual(4);
    } finally {
      await host[Symbol.asyncDispose]();
    }
    expect(leftovers(host)).toEqual({ processes: [], mounts: [], cgroups: [], directories: [] });
    expect(deadShimSockets().filter((name) => !before.sockets.includes(name))).toEqual([]);
    expect(unusedFifosSince(before.fifos)).toEqual([]);
  });
});
