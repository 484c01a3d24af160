import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SNAPSHOTS_SERVICE } from "../../src/format/containerd/snapshots-schema.ts";
import { findRecord } from "../../src/operation/mount/mount-record.ts";
import { GrpcClient, type Message } from "../../src/os/grpc.ts";
import {
  differencesFromSource,
  differencesOfContainers,
  startSleeper,
  treeOfContainer,
} from "../kit/container-tree.ts";
import type { ContainerdHost } from "../kit/containerd.ts";
import { chainOf, isNydus } from "../kit/containerd-chains.ts";
import { type GoldenImage, goldenTree } from "../kit/containerd-images.ts";
import { ContainerdWorld, type ModelContainer, PROBE } from "../kit/containerd-world.ts";
import { mountsBelow } from "../kit/leftovers.ts";
import { findContainerds, missingPeers } from "../kit/peers.ts";
import type { TreeEntry } from "../kit/tree.ts";

const IMAGES = ["oci", "nydus", "nerdctl-nydus"] as const satisfies readonly GoldenImage[];
const CLIENTS = 50;
const STARTS_AMID = 6;
const WAIT_MS = 20_000;
/** What a mount daemon has read is durable after this long. */
const DURABLE_MS = 2_500;

let world: ContainerdWorld;
/** What containerd's own snapshotter makes of the plain image. */
let plainTree: TreeEntry[];

/** Where the whole tree of a container is not its image's. */
async function differences({ id, image }: ModelContainer): Promise<string[]> {
  const tree = await treeOfContainer(world.host, id);
  return isNydus(image) ? differencesFromSource(goldenTree(), tree) : differencesOfContainers(plainTree, tree);
}

async function treeByContainerd(host: ContainerdHost, image: string): Promise<TreeEntry[]> {
  await host.ok("nerdctl", "--snapshotter", "overlayfs", "pull", "-q", image);
  const id = await startSleeper(host, image, "overlayfs");
  const tree = await treeOfContainer(host, id);
  await host.ok("nerdctl", "rm", "-f", id);
  return tree;
}

async function expectRight(...containers: readonly ModelContainer[]): Promise<void> {
  for (const container of containers) {
    expect({ image: container.image, differs: await differences(container) }).toEqual({
      image: container.image,
      differs: [],
    });
  }
}

/** One container of each image. */
async function startAll(): Promise<Record<(typeof IMAGES)[number], ModelContainer>> {
  const [oci, nydus, nerdctl] = [await world.run("oci"), await world.run("nydus"), await world.run("nerdctl-nydus")];
  return { oci, nydus, "nerdctl-nydus": nerdctl };
}

/** Makes the world what it was before a test. */
async function restore(): Promise<void> {
  await world.setRegistry(true);
  await world.startSnapshotter();
  for (const container of [...world.containers.values()]) await world.remove(container);
}

function snapshotter(...path: string[]): string {
  return join(world.host.root, "snapshotter", ...path);
}

/**
 * What a snapshotter must leave as it is when it ends. Left out is what containerd removes when it has time: views, by
 * which nerdctl has looked at an image, and the world's probes.
 */
function onDisk(): unknown {
  const names = readdirSync(snapshotter("snapshots")).sort();
  const records = names.map((name) => readFileSync(snapshotter("snapshots", name, "snapshot.json"), "utf8"));
  const kept = records.filter((record) => {
    const { key, kind } = JSON.parse(record) as { key: string; kind: string };
    return kind !== "view" && !key.endsWith(`/${PROBE}`);
  });
  return { mounts: mountsBelow(world.host.dir), records: kept };
}

async function listedSnapshots(): Promise<string[]> {
  const listed = await world.host.listed("snapshots", "--snapshotter", "nydus", "ls");
  return listed.filter((line) => !line.trimEnd().endsWith("View"));
}

/** Directory of the snapshot that an image's containers stand on. */
function topOf(image: GoldenImage): string {
  const name = readdirSync(snapshotter("snapshots")).find((one) => {
    const record = readFileSync(snapshotter("snapshots", one, "snapshot.json"), "utf8");
    return (JSON.parse(record) as { key: string }).key.endsWith(`/${chainOf(image)}`);
  });
  return snapshotter("snapshots", name ?? "none");
}

function isMounted(image: GoldenImage): boolean {
  const mountpoint = join(topOf(image), "mnt");
  return findRecord(world.host.root, mountpoint)?.state === "serving";
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let waited = 0; waited < WAIT_MS; waited += 50) {
    if (await holds()) return;
    await Bun.sleep(50);
  }
  throw new Error(`not so after ${WAIT_MS} ms: ${what}; ${world.host.log("snapshotter")}`);
}

function client(): GrpcClient {
  return new GrpcClient(world.host.snapshotterAddress, true);
}

/** How often each outcome was met when clients call at once; an answer is its JSON, an error its code. */
async function outcomes(method: string, request: Message): Promise<Record<string, number>> {
  const results = await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      using one = client();
      return await one.call(SNAPSHOTS_SERVICE, method, request).then(
        (answer) => JSON.stringify(answer),
        (error: { code?: string }) => error.code ?? String(error),
      );
    }),
  );
  const counts: Record<string, number> = {};
  for (const result of results) counts[result] = (counts[result] ?? 0) + 1;
  return counts;
}

const DAMAGES = {
  truncated: (path: string) => truncateSync(path, Math.floor(readFileSync(path).length / 2)),
  emptied: (path: string) => truncateSync(path, 0),
  deleted: (path: string) => {
    for (const suffix of ["", "-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
  },
  overwritten: (path: string) => writeFileSync(path, Buffer.alloc(100_000, "no database ")),
} as const satisfies Record<string, (path: string) => void>;

describe.skipIf(missingPeers().length > 0).each(findContainerds())("with $name running containers", (containerd) => {
  beforeAll(async () => {
    world = await ContainerdWorld.open(containerd);
    for (const image of IMAGES) await world.pull(image);
    plainTree = await treeByContainerd(world.host, world.reference("oci"));
  });
  afterEach(restore);
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  test.each(["SIGTERM", "SIGKILL"] as const)(
    "%s of the snapshotter removes and unmounts nothing: containers go on, new ones start, old ones go",
    async (signal) => {
      const old = [await world.run("oci"), await world.run("nydus")]; // on the third image stands nothing
      const before = onDisk();
      expect(await world.stopSnapshotter(signal)).toBe(signal === "SIGTERM" ? 0 : null);
      expect(onDisk()).toEqual(before);
      await expectRight(...old);
      await world.startSnapshotter();
      expect(onDisk()).toEqual(before);
      await expectRight(...old, ...Object.values(await startAll()));
    },
  );

  test("SIGKILL of the mount daemon harms nobody: containers read on, and new ones start", async () => {
    const old = await startAll();
    const before = mountsBelow(snapshotter());
    await world.killDaemon();
    await expectRight(old.oci, old.nydus, await world.run("oci"), await world.run("nydus"));
    await world.killDaemon();
    await expectRight(old.oci, old.nydus, await world.run("nerdctl-nydus"));
    expect(mountsBelow(snapshotter()).filter((path) => before.includes(path))).toEqual(before);
  });

  test("SIGKILL of the mount daemon and its holder ends the mounts and nothing else; the image starts again", async () => {
    const old = await startAll();
    await world.killDaemon("with holder");
    await expectRight(old.oci, await world.run("oci"), await world.run("nydus"), await world.run("nerdctl-nydus"));
    const mountpoint = join(topOf("nydus"), "mnt");
    expect(mountsBelow(snapshotter()).filter((path) => path === mountpoint)).toHaveLength(1);
    await world.kill(old.nydus);
    await world.start(old.nydus);
    await expectRight(old.nydus);
  });

  test("SIGKILL of snapshotter and daemon: containers go on, with the registry stopped too", async () => {
    const old = await startAll();
    await expectRight(...Object.values(old));
    await Bun.sleep(DURABLE_MS);
    await world.setRegistry(false);
    await world.stopSnapshotter("SIGKILL");
    await world.killDaemon();
    await expectRight(...Object.values(old));
    await world.startSnapshotter();
    await world.cleanup(); // nothing that it may delete is anybody's
    await until("images are mounted", () => isMounted("nydus") && isMounted("nerdctl-nydus"));
    await expectRight(...Object.values(old), ...Object.values(await startAll()));
    await world.setRegistry(true);
  });

  test("a broken image fails its own containers, which say why, and no others; mended, it runs", async () => {
    const old = await startAll();
    const bootstrap = join(topOf("nydus"), "fs", "image", "image.boot");
    const whole = readFileSync(bootstrap);
    try {
      await world.stopSnapshotter("SIGKILL");
      await world.killDaemon("with holder");
      truncateSync(bootstrap, 3000);
      await world.startSnapshotter();
      await until("the other image is mounted", () => isMounted("nerdctl-nydus"));
      const complaint = /is not mounted: .*image\.boot/;
      await until("the broken one is complained of", () => complaint.test(world.host.log("snapshotter")));
      await expectRight(old.oci, await world.run("oci"), await world.run("nerdctl-nydus"));
      const refused = await world.host.nerdctl("run", "--rm", "--pull", "never", world.reference("nydus"), "/none");
      expect(refused.status).not.toBe(0);
      expect(refused.stderr).toMatch(/Cannot (open|use) bootstrap/);
      expect(refused.stderr).toContain("image.boot");
    } finally {
      writeFileSync(bootstrap, whole);
    }
    await expectRight(await world.run("nydus"));
  });

  test.each(Object.entries(DAMAGES))("a database that is %s is made again, and nothing is lost", async (_, damage) => {
    const old = await startAll();
    const before = onDisk();
    const listed = await listedSnapshots();
    await world.stopSnapshotter("SIGKILL");
    damage(snapshotter("metadata.sqlite"));
    await world.startSnapshotter();
    expect(await listedSnapshots()).toEqual(listed);
    expect(onDisk()).toEqual(before);
    await expectRight(old.oci, old.nydus, await world.run("oci"), await world.run("nydus"));
  });

  test(`${CLIENTS} clients with one key: one makes it, all see it, one removes it; cleanup is for all and for ever`, async () => {
    const parent = (JSON.parse(readFileSync(join(topOf("nydus"), "snapshot.json"), "utf8")) as { key: string }).key;
    const key = "life/1/one-key";
    // Its garbage collection would remove a snapshot that it has not asked for.
    await world.host.stop("containerd");
    const prepared = await outcomes("Prepare", { key, parent });
    expect(Object.values(prepared).sort()).toEqual([1, CLIENTS - 1]);
    expect(prepared["EEXIST"]).toBe(CLIENTS - 1);
    const [mounts = ""] = Object.keys(prepared).filter((one) => one !== "EEXIST");
    expect(await outcomes("Mounts", { key })).toEqual({ [mounts]: CLIENTS });
    expect(mountsBelow(snapshotter()).filter((path) => path === join(topOf("nydus"), "mnt"))).toHaveLength(1);
    expect(await outcomes("Remove", { key })).toEqual({ "{}": 1, ENOENT: CLIENTS - 1 });
    expect(await outcomes("Remove", { key })).toEqual({ ENOENT: CLIENTS });
    const before = onDisk();
    expect(await outcomes("Cleanup", {})).toEqual({ "{}": CLIENTS });
    expect(await outcomes("Cleanup", {})).toEqual({ "{}": CLIENTS });
    expect(onDisk()).toEqual(before);
    await world.host.startContainerd();
    await expectRight(await world.run("nydus"));
  });

  test.each(["SIGTERM", "SIGKILL"] as const)("%s of containerd while containers start harms nobody", async (signal) => {
    const old = await startAll();
    const starts = Array.from({ length: STARTS_AMID }, (_, i) => world.run(IMAGES[i % IMAGES.length] ?? "oci"));
    const settled = Promise.allSettled(starts);
    await Bun.sleep(300);
    await world.settle(settled, world.restart("containerd", signal));
    await expectRight(...Object.values(old), ...Object.values(await startAll()));
  });

  test("a removed image frees its mount and its blobs, and nothing of another; one in use frees nothing", async () => {
    const { nydus, "nerdctl-nydus": other } = await startAll();
    await expectRight(nydus, other);
    const caches = (): string[] => readdirSync(join(world.host.root, "cache")).filter((name) => name.endsWith(".data"));
    const all = caches();
    expect(all.length).toBeGreaterThan(1);
    await world.removeImage("nydus", "untag"); // while its container runs
    await world.cleanup();
    expect(caches().sort()).toEqual(all.sort());
    await world.setRegistry(false);
    await expectRight(nydus, other);
    await world.setRegistry(true);
    await world.remove(nydus);
    await world.host.ok("ctr", "content", "prune", "references");
    await until("its mount is gone", () => mountsBelow(snapshotter()).length === 1);
    await world.cleanup();
    expect(caches().length).toBeLessThan(all.length);
    await world.setRegistry(false);
    await expectRight(other);
    await world.setRegistry(true);
    await world.end();
    expect(world.remains()).toEqual([]);
  });
});
