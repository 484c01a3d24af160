import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hasDockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { smallGolden } from "../kit/golden.ts";
import { killProcessesOf, mountsBelow, unmountBelow } from "../kit/leftovers.ts";
import { isBuilt, nydus } from "../kit/program.ts";
import { shell } from "../kit/shell.ts";
import { codeOf } from "../kit/snapshotter.ts";
import { mountAt, SnapshotterProcess, umountAt } from "../kit/snapshotter-process.ts";
import { diffTrees, readTree, treeOf } from "../kit/tree.ts";

setDefaultTimeout(90_000);

const isRoot = process.getuid?.() === 0;
const canRun = isBuilt && isRoot;
const canMountImages =
  canRun && existsSync("/dev/fuse") && hasDockerRegistry && spawnSync("skopeo", ["--version"]).status === 0;

const REF = "containerd.io/snapshot.ref";
const SNAPSHOT = "containerd.io/snapshot/";

let dir: string;
let place: { root: string; address: string };
/** The one that runs. */
let running: SnapshotterProcess | undefined;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-snapshotter-"));
  place = { root: join(dir, "root"), address: join(dir, "run", "s.sock") };
});
afterEach(async () => {
  await running?.[Symbol.asyncDispose]().catch(() => undefined);
  running = undefined;
  await unmountBelow(dir);
  await killProcessesOf(dir);
  rmSync(dir, { recursive: true, force: true });
});

async function start(more: Parameters<typeof SnapshotterProcess.start>[1] = {}): Promise<SnapshotterProcess> {
  running = await SnapshotterProcess.start(place, more);
  return running;
}

async function restart(signal: NodeJS.Signals, between: () => void = () => undefined): Promise<SnapshotterProcess> {
  await running?.end(signal);
  between();
  return await start();
}

/** A committed layer with one file of its own name. */
async function layer(on: SnapshotterProcess, name: string, parent = ""): Promise<void> {
  const at = join(dir, `unpack-${name}`);
  await mountAt(await on.mountsOf("Prepare", { key: `${name} new`, parent }), at);
  writeFileSync(join(at, name), name);
  writeFileSync(join(at, "last"), name);
  await umountAt(at);
  await on.call("Commit", { key: `${name} new`, name });
}

describe.skipIf(!canRun)("nydus snapshotter", () => {
  test("what it answers can be mounted, and shows all layers", async () => {
    const on = await start();
    await layer(on, "one");
    await layer(on, "two", "one");
    await mountAt(await on.mountsOf("Prepare", { key: "c", parent: "two" }), join(dir, "c"));
    expect(readdirSync(join(dir, "c")).sort()).toEqual(["last", "one", "two"]);
    expect(readFileSync(join(dir, "c", "last"), "utf8")).toBe("two");
    rmSync(join(dir, "c", "one"));
    writeFileSync(join(dir, "c", "mine"), "");
    await mountAt(await on.mountsOf("View", { key: "v", parent: "two" }), join(dir, "v"));
    expect(readdirSync(join(dir, "v")).sort()).toEqual(["last", "one", "two"]);
    expect(() => writeFileSync(join(dir, "v", "x"), "")).toThrow(/EROFS/);
    await mountAt(await on.mountsOf("View", { key: "w", parent: "one" }), join(dir, "w"));
    expect(() => writeFileSync(join(dir, "w", "x"), "")).toThrow(/EROFS/);
  });

  test.each(["SIGTERM", "SIGKILL"] as const)("%s leaves mounts alone, and the next one goes on", async (signal) => {
    let on = await start();
    await layer(on, "one");
    const mounts = await on.mountsOf("Prepare", { key: "c", parent: "one" });
    await mountAt(mounts, join(dir, "c"));
    const before = await on.list();
    on = await restart(signal, () => {
      expect(readFileSync(join(dir, "c", "one"), "utf8")).toBe("one");
      if (signal === "SIGTERM") expect(existsSync(place.address)).toBe(false);
    });
    writeFileSync(join(dir, "c", "two"), "2");
    expect(await on.list()).toEqual(before);
    expect(await on.mountsOf("Mounts", { key: "c" })).toEqual(mounts);
    await umountAt(join(dir, "c"));
    await on.call("Commit", { key: "c", name: "two" });
    await mountAt(await on.mountsOf("View", { key: "v", parent: "two" }), join(dir, "v"));
    expect(readdirSync(join(dir, "v")).sort()).toEqual(["last", "one", "two"]);
    await umountAt(join(dir, "v"));
    for (const key of ["v", "two", "one"]) await on.call("Remove", { key });
    await on.call("Cleanup", {});
    const kept = ["snapshots", "removed", "damaged"].map((name) => readdirSync(join(place.root, "snapshotter", name)));
    expect(kept).toEqual([[], [], []]);
  });

  test.each([
    ["deleted", (path: string) => rmSync(path)],
    ["cut off", (path: string) => truncateSync(path, 3_000)],
    ["overwritten", (path: string) => writeFileSync(path, Buffer.alloc(30_000, "noise"))],
  ] as const)("killed, and its database %s, it knows everything again", async (_, damage) => {
    let on = await start();
    await layer(on, "one");
    await mountAt(await on.mountsOf("Prepare", { key: "c", parent: "one", labels: { x: "y" } }), join(dir, "c"));
    const before = await on.list();
    on = await restart("SIGKILL", () => {
      damage(join(place.root, "snapshotter", "metadata.sqlite"));
      rmSync(join(place.root, "snapshotter", "metadata.sqlite-wal"), { force: true });
    });
    expect(await on.list()).toEqual(before);
    expect(await codeOf(() => on.call("Remove", { key: "one" }))).toBe("EBUSY");
    await on.call("Cleanup", {});
    expect(readFileSync(join(dir, "c", "one"), "utf8")).toBe("one");
  });

  test("killed again and again while clients work, it never loses what it has answered", async () => {
    let on = await start();
    const answered: string[] = [];
    for (let round = 0; round < 4; round++) {
      const victim = on;
      const clients = Array.from({ length: 8 }, async (_, client) => {
        for (let i = 0; ; i++) {
          const key = `${round}-${client}-${i}`;
          const isDone = await victim.call("Prepare", { key }).then(
            () => true,
            () => false,
          );
          if (!isDone) return;
          answered.push(key);
        }
      });
      await Bun.sleep(150 + 50 * round);
      on = await restart("SIGKILL");
      await Promise.all(clients);
      const known = new Set((await on.list()).map(({ name }) => name));
      expect(answered.filter((key) => !known.has(key))).toEqual([]);
      for (const name of known) expect(await on.mountsOf("Mounts", { key: name })).toHaveLength(1);
    }
    expect(answered.length).toBeGreaterThan(8);
  });

  test("one serves a directory, and one a socket", async () => {
    await start();
    const same = await nydus("--root", place.root, "snapshotter", "--address", join(dir, "other.sock"));
    expect([same.status, same.stderr]).toEqual([11, expect.stringContaining("another one serves this directory")]);
    const other = await nydus("--root", join(dir, "other"), "snapshotter", "--address", place.address);
    expect([other.status, other.stderr]).toEqual([11, expect.stringContaining("another process does")]);
    expect((await running?.list())?.length).toBe(0);
  });

  test("only root may ask, and a long list comes whole", async () => {
    const on = await start();
    expect(statSync(place.address).mode & 0o777).toBe(0o600);
    for (let i = 0; i < 230; i++) await on.call("Prepare", { key: `k${String(i).padStart(3, "0")}` });
    expect((await on.list()).map(({ name }) => name)).toEqual(
      Array.from({ length: 230 }, (_, i) => `k${String(i).padStart(3, "0")}`),
    );
    expect((await on.list("name~=/^k00/")).length).toBe(10);
    expect(await codeOf(() => on.list("=="))).toBe("EINVAL");
  });

  test("the service manager hears when it serves and when it ends", async () => {
    const socket = join(dir, "notify");
    const heard = join(dir, "heard");
    const script = `import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(${JSON.stringify(socket)})
print("bound", flush=True)
open(${JSON.stringify(heard)}, "wb").write(b"|".join(s.recv(99) for _ in range(2)))`;
    const listener = Bun.spawn(["python3", "-c", script], { stdout: "pipe" });
    await listener.stdout.getReader().read();
    const on = await start({ env: { NOTIFY_SOCKET: socket } });
    expect(await on.end("SIGTERM")).toBe(0);
    await listener.exited;
    expect(readFileSync(heard, "utf8")).toBe("READY=1|STOPPING=1");
  });
});

describe.skipIf(!canMountImages)("nydus snapshotter with a Nydus image", () => {
  test("containers share its mount, which outlives the snapshotter and goes with the image", async () => {
    const golden = smallGolden();
    await using registry = await startDockerRegistry();
    const image = `${registry.host}/test/image:nydus`;
    const source = `oci:${join(golden, "images")}:nydus`;
    await shell(`skopeo copy --quiet --dest-tls-verify=false ${source} docker://${image}`);
    const manifest = JSON.parse(await shell(`skopeo inspect --raw ${source}`)) as { layers: { digest: string }[] };
    const digests = manifest.layers.map(({ digest }) => digest);
    let on = await start();

    let parent = "";
    for (const [at, digest] of digests.slice(0, -1).entries()) {
      const labels = {
        [REF]: `chain${at}`,
        [`${SNAPSHOT}nydus-blob`]: "true",
        [`${SNAPSHOT}cri.layer-digest`]: digest,
      };
      expect(await codeOf(() => on.call("Prepare", { key: `ns/${at}/new`, parent, labels }))).toBe("EEXIST");
      [{ name: parent }] = (await on.list(`labels."${REF}"==chain${at}`)) as [{ name: string }];
    }
    const labels = { [REF]: "top", [`${SNAPSHOT}nydus-bootstrap`]: "true", [`${SNAPSHOT}cri.image-ref`]: image };
    const [unpack] = await on.mountsOf("Prepare", { key: "ns/8/new", parent, labels });
    const bootstrap = await shell(
      `skopeo copy --quiet ${source} dir:${join(dir, "image")} && ls ${join(dir, "image")}`,
    );
    expect(bootstrap).toContain(digests.at(-1)?.slice(7) ?? "none");
    await shell(`tar -xzf ${join(dir, "image", digests.at(-1)?.slice(7) ?? "")} -C ${unpack?.source}`);
    await on.call("Commit", { key: "ns/8/new", name: "ns/9/top", labels });

    await Promise.all(
      [0, 1, 2, 3].map(async (i) => {
        await mountAt(await on.mountsOf("Prepare", { key: `c${i}`, parent: "ns/9/top" }), join(dir, `c${i}`));
      }),
    );
    expect(mountsBelow(join(place.root, "snapshotter"))).toHaveLength(1);
    const wanted = readTree(join(golden, "tree.jsonl"));
    const differences = async (name: string) =>
      diffTrees(wanted, await treeOf(join(dir, name)), {
        // nydusify's own: no nanoseconds, and the root directory is the container's
        ignore: (field, { path }) => field === "mtime" || path === "/" || path === ".",
      });
    expect(await differences("c0")).toEqual([]);

    on = await restart("SIGKILL");
    writeFileSync(join(dir, "c1", "written"), "by the container");
    expect(await differences("c2")).toEqual([]);
    await umountAt(join(dir, "c1"));
    await on.call("Commit", { key: "c1", name: "ns/10/mine" });
    await mountAt(await on.mountsOf("View", { key: "v", parent: "ns/10/mine" }), join(dir, "v"));
    expect(readFileSync(join(dir, "v", "written"), "utf8")).toBe("by the container");
    await mountAt(await on.mountsOf("View", { key: "w", parent: "ns/9/top" }), join(dir, "w"));
    expect(await differences("w")).toEqual([]);
    expect((await on.call("Usage", { key: "chain0" }))["size"]).toBeGreaterThan(0);

    for (const name of ["c0", "c2", "c3", "v", "w"]) {
      await umountAt(join(dir, name));
      await on.call("Remove", { key: name });
    }
    for (const key of ["ns/10/mine", "ns/9/top", parent]) await on.call("Remove", { key });
    expect(mountsBelow(join(place.root, "snapshotter"))).toEqual([]);
    for (const { name } of (await on.list()).reverse()) await on.call("Remove", { key: name });
    await on.call("Cleanup", {});
    expect(readdirSync(join(place.root, "snapshotter", "snapshots"))).toEqual([]);
    expect(await on.end("SIGTERM")).toBe(0);
  });
});
