import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { listMounts } from "../../src/operation/mount/mount-record.ts";
import { differencesFromSource, treeOfContainer } from "../kit/container-tree.ts";
import { goldenTree } from "../kit/containerd-images.ts";
import { ContainerdWorld, type ModelContainer } from "../kit/containerd-world.ts";
import { canMountErofs } from "../kit/erofs-lab.ts";
import { findContainerds, missingPeers } from "../kit/peers.ts";

const IMAGES = ["nydus", "nerdctl-nydus"] as const;
const KILLS = 3;

let world: ContainerdWorld;

/** Where the whole tree of a container is not its image's, read anew from what the kernel's driver mounts. */
async function differences({ id }: ModelContainer): Promise<string[]> {
  await Bun.write("/proc/sys/vm/drop_caches", "3");
  return differencesFromSource(goldenTree(), await treeOfContainer(world.host, id));
}

/** Engines of the images that are mounted. */
function engines(): string[] {
  return listMounts(world.host.root).map(({ engine, state }) => `${engine} ${state}`);
}

const skipped = missingPeers().length > 0 || !canMountErofs();

describe.skipIf(skipped).each(findContainerds())("with $name over EROFS", (containerd) => {
  beforeAll(async () => {
    world = await ContainerdWorld.open(containerd);
    for (const image of IMAGES) await world.pull(image);
  });
  afterEach(async () => {
    for (const container of [...world.containers.values()]) await world.remove(container);
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  test("kill -9 of the mount daemon again and again, amid reads of whole trees, harms no container", async () => {
    const containers = [await world.run(IMAGES[0]), await world.run(IMAGES[1])];
    expect(engines()).toEqual(["erofs serving", "erofs serving"]);
    for (let kill = 0; kill < KILLS; kill++) {
      const reads = Promise.all(containers.map(differences));
      await Bun.sleep(20 * kill);
      await world.killDaemon();
      expect(await reads).toEqual([[], []]);
      expect(engines()).toEqual(["erofs serving", "erofs serving"]);
    }
    expect(await differences(await world.run("nydus"))).toEqual([]);
  });

  test("kill -9 of snapshotter and daemon harms no container; removed images free mounts, caches and processes", async () => {
    const container = await world.run("nydus");
    const reads = differences(container);
    await world.stopSnapshotter("SIGKILL");
    await world.killDaemon();
    expect(await reads).toEqual([]);
    await world.startSnapshotter();
    expect(await differences(await world.run("nydus"))).toEqual([]);
    await world.end();
    expect(engines()).toEqual([]);
    expect(world.remains()).toEqual([]);
  });
});
