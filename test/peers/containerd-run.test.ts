import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  differencesFromSource,
  differencesOfContainers,
  digestsInside,
  missingDigests,
  runOnce,
  startSleeper,
  treeOfContainer,
} from "../kit/container-tree.ts";
import { ContainerdHost } from "../kit/containerd.ts";
import { GOLDEN_IMAGES, type GoldenImage, goldenTree, layersOf, pushGolden } from "../kit/containerd-images.ts";
import { type DockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { mountsBelow } from "../kit/leftovers.ts";
import { type Containerd, findContainerds, missingPeers } from "../kit/peers.ts";
import { diffTrees, type TreeEntry } from "../kit/tree.ts";

const STARTS_AT_ONCE = 20;
const FILES_MIN = 1000;
const IS_NYDUS = { oci: false, docker: false, nydus: true, "nerdctl-nydus": true } satisfies Record<
  GoldenImage,
  boolean
>;

/** A containerd, and a registry with every golden image. */
class Lab implements AsyncDisposable {
  readonly host: ContainerdHost;
  readonly registry: DockerRegistry;

  constructor(host: ContainerdHost, registry: DockerRegistry) {
    this.host = host;
    this.registry = registry;
  }

  static async open(containerd: Containerd): Promise<Lab> {
    const registry = await startDockerRegistry();
    try {
      for (const name of GOLDEN_IMAGES) await pushGolden(registry.host, name);
      return new Lab(await ContainerdHost.start(containerd), registry);
    } catch (error) {
      await registry[Symbol.asyncDispose]();
      throw error;
    }
  }

  image(name: GoldenImage): string {
    return `${this.registry.host}/golden:${name}`;
  }

  committed(name: GoldenImage): string {
    return `${this.registry.host}/committed:${name}`;
  }

  /** The tree of an image while a container of it runs. */
  async tree(image: string, snapshotter = "nydus"): Promise<TreeEntry[]> {
    const id = await startSleeper(this.host, image, snapshotter);
    try {
      return await treeOfContainer(this.host, id);
    } finally {
      await this.host.ok("nerdctl", "rm", "-f", id);
    }
  }

  /** Pulls an image; where it is plain, also for the snapshotter that its tree must be the same with. */
  async pull(name: GoldenImage): Promise<void> {
    await this.host.ok("nerdctl", "pull", "-q", this.image(name));
    if (!IS_NYDUS[name]) await this.host.ok("nerdctl", "--snapshotter", "overlayfs", "pull", "-q", this.image(name));
  }

  /** Where an image's tree is not what it must be: containerd's own for a plain image, its source's for a Nydus image. */
  async differences(name: GoldenImage): Promise<string[]> {
    const tree = await this.tree(this.image(name));
    if (IS_NYDUS[name]) return differencesFromSource(goldenTree(), tree);
    return differencesOfContainers(await this.tree(this.image(name), "overlayfs"), tree);
  }

  /** Kills the processes that serve mounts and snapshots; only the second is started again. */
  async crash(): Promise<void> {
    const status = await this.host.ok("nydus", "--root", this.host.root, "daemon", "status", "--json");
    process.kill((JSON.parse(status) as { pid: number }).pid, "SIGKILL");
    await this.host.restartSnapshotter("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.host[Symbol.asyncDispose]();
    await this.registry[Symbol.asyncDispose]();
  }
}

async function addAndCommit(lab: Lab, name: GoldenImage): Promise<void> {
  const id = await startSleeper(lab.host, lab.image(name));
  const change = "echo added >/data/added; /busybox rm -r /opaque; /busybox cat /tail /tail >/tmp/two-tails";
  await lab.host.ok("nerdctl", "exec", id, "/busybox", "sh", "-c", change);
  await lab.host.ok("nerdctl", "commit", id, lab.committed(name));
  await lab.host.ok("nerdctl", "rm", "-f", id);
}

describe.skipIf(missingPeers().length > 0).each(findContainerds())("nerdctl with $name", (containerd) => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.open(containerd);
  });
  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
  });

  describe.each(GOLDEN_IMAGES)("%s", (name) => {
    test("is pulled, without its data where it is Nydus", async () => {
      await lab.pull(name);
      const present = new Set(await lab.host.listed("content", "ls", "-q"));
      const fetched = layersOf(name).map(({ digest }) => present.has(digest));
      expect(fetched).toEqual(layersOf(name).map(({ isData }) => !(IS_NYDUS[name] && isData)));
    });

    test("shows its tree from outside", async () => {
      expect(await lab.differences(name)).toEqual([]);
    });

    test("shows every file's bytes to a program in it, with the registry stopped too", async () => {
      const source = await lab.tree(lab.image(name));
      expect(source.filter(({ sha256 }) => sha256 !== undefined).length).toBeGreaterThan(FILES_MIN);
      expect(missingDigests(source, await digestsInside(lab.host, lab.image(name)))).toEqual([]);
      await lab.registry.stop();
      try {
        expect(missingDigests(source, await digestsInside(lab.host, lab.image(name)))).toEqual([]);
      } finally {
        await lab.registry.start();
      }
    });

    test("is committed with its changes, and the result runs", async () => {
      const before = await lab.tree(lab.image(name));
      await addAndCommit(lab, name);
      expect(await runOnce(lab.host, lab.committed(name), "cat", "/data/added")).toBe("added");
      const changes = diffTrees(before, await lab.tree(lab.committed(name)), { ignore: (field) => field === "mtime" });
      const gone = before.filter(({ path }) => path === "/opaque" || path.startsWith("/opaque/"));
      const expected = gone.map(({ path }) => `only left: ${path}`);
      expect(changes).toEqual([...expected, "only right: /data/added", "only right: /tmp/two-tails"]);
    });
  });

  test(`starts ${STARTS_AT_ONCE} containers of all images at once`, async () => {
    const file = goldenTree().find(({ path, size = 0 }) => path.startsWith("/data/") && size > 100_000);
    const names = Array.from({ length: STARTS_AT_ONCE }, (_, i) => GOLDEN_IMAGES[i % GOLDEN_IMAGES.length] ?? "oci");
    const printed = await Promise.all(
      names.map((name) => runOnce(lab.host, lab.image(name), "sha256sum", file?.path ?? "")),
    );
    expect(printed).toEqual(names.map(() => `${file?.sha256}  ${file?.path}`));
  });

  test("runs all of them, and what was committed, after a crash with the registry stopped", async () => {
    await lab.registry.stop();
    await lab.crash();
    for (const name of GOLDEN_IMAGES) {
      expect(await lab.differences(name)).toEqual([]);
      expect(await runOnce(lab.host, lab.committed(name), "cat", "/data/added")).toBe("added");
    }
  });

  test("removes an image that no container needs, and refuses one that a container needs", async () => {
    const id = await startSleeper(lab.host, lab.image("nydus"));
    expect((await lab.host.nerdctl("rmi", lab.image("nydus"))).status).not.toBe(0);
    expect(await lab.host.ok("nerdctl", "exec", id, "/busybox", "cat", "/tail")).not.toBe("");
    await lab.host.ok("nerdctl", "rm", "-f", id);
    await lab.host.ok("nerdctl", "rmi", lab.committed("nydus"));
    await lab.host.ok("nerdctl", "rmi", lab.image("nydus"));
  });

  test("keeps nothing when all is pruned", async () => {
    await lab.host.ok("nerdctl", "container", "prune", "-f");
    await lab.host.ok("nerdctl", "image", "prune", "-a", "-f");
    expect(await lab.host.listed("images", "ls", "-q")).toEqual([]);
    expect(await lab.host.listed("snapshots", "--snapshotter", "nydus", "ls")).toEqual([]);
    expect(await lab.host.listed("content", "ls", "-q")).toEqual([]);
    expect(mountsBelow(lab.host.dir)).toEqual([]);
  });
});
