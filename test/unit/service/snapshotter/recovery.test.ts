import { describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { NydusError } from "../../../../src/base/errors.ts";
import { openDatabase } from "../../../../src/os/sqlite.ts";
import { Metastore } from "../../../../src/service/snapshotter/metastore.ts";
import type { Snapshot } from "../../../../src/service/snapshotter/snapshot.ts";
import { SnapshotDirs } from "../../../../src/service/snapshotter/snapshot-dirs.ts";
import { Random } from "../../../kit/random.ts";
import { codeOf, SnapshotterLab } from "../../../kit/snapshotter.ts";

/** Everything that clients see. */
async function stateOf(lab: SnapshotterLab): Promise<unknown> {
  const found = [];
  for (const { key } of lab.snapshotter.list([])) {
    const { labels, ...fields } = lab.snapshotter.stat(key);
    found.push({ ...fields, labels: [...labels].sort(), usage: await lab.snapshotter.usage(key) });
  }
  return found;
}

async function fill(lab: SnapshotterLab): Promise<void> {
  await lab.layer("base", "", { "a.b/c": "ü", __proto__x: "1" });
  await lab.layer("top", "base");
  await lab.prepare("active", "top", { x: "1" });
  await lab.view("view", "top");
  await lab.prepare("removed", "top");
  await lab.snapshotter.remove("removed");
  lab.snapshotter.update("active", new Map([["x", "2"]]), []);
}

const DATABASE = "metadata.sqlite";
const SETS_ASIDE = [
  ["noise", (path: string) => writeFileSync(path, new Random(7).bytes(20_000))],
  ["cut off", (path: string) => truncateSync(path, 5_000)],
  ["another program's", (path: string) => makeForeign(path, "CREATE TABLE other (x)")],
  ["of a later version", (path: string) => makeForeign(path, "PRAGMA user_version = 99")],
  ["of other columns", (path: string) => makeForeign(path, "CREATE TABLE snapshots (id); PRAGMA user_version = 1")],
] as const;

function makeForeign(path: string, sql: string): void {
  rmSync(path);
  using db = openDatabase(path);
  db.exec(sql);
}

describe("the database of the snapshotter", () => {
  test.each([
    ["deleted", (path: string) => rmSync(path)],
    ["emptied", (path: string) => truncateSync(path, 0)],
    ...SETS_ASIDE,
  ] as const)("%s: it is made again from the records", async (_, damage) => {
    await using lab = new SnapshotterLab();
    await fill(lab);
    const before = await stateOf(lab);
    await lab.restart(() => damage(lab.path(DATABASE)));
    expect(await stateOf(lab)).toEqual(before);
    expect(await codeOf(() => lab.snapshotter.remove("base"))).toBe("EBUSY");
    await lab.prepare("new", "top");
    expect(lab.snapshotter.stat("new").id).toBeGreaterThan(4);
    expect(existsSync(lab.path("snapshots", "1", "fs", "base"))).toBe(true);
  });

  test.each(SETS_ASIDE)("%s: it is kept aside as it was", async (_, damage) => {
    await using lab = new SnapshotterLab();
    await fill(lab);
    let damaged = Buffer.of();
    await lab.restart(() => {
      damage(lab.path(DATABASE));
      damaged = readFileSync(lab.path(DATABASE));
    });
    const kept = readdirSync(lab.path()).filter((name) => name.startsWith(`${DATABASE}.damaged-`));
    expect(kept.length).toBeGreaterThan(0);
    expect(readFileSync(lab.path(kept.sort()[0] as string)).equals(damaged)).toBe(true);
    expect(lab.log.join("\n")).toContain("it is kept as");
  });

  test("that is old is brought to what the records say", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    await lab.prepare("active", "base");
    const old = lab.path("old");
    await lab.restart(() => cpSync(lab.path(DATABASE), old));
    await lab.commit("active", "done", { x: "1" });
    await lab.prepare("later", "done");
    const before = await stateOf(lab);
    await lab.restart(() => renameSync(old, lab.path(DATABASE)));
    expect(await stateOf(lab)).toEqual(before);
  });

  test("is right where a record is missing or damaged, and the record is written again", async () => {
    await using lab = new SnapshotterLab();
    await fill(lab);
    const before = await stateOf(lab);
    await lab.restart(() => {
      rmSync(lab.path("snapshots", "1", "snapshot.json"));
      writeFileSync(lab.path("snapshots", "2", "snapshot.json"), '{"version":1');
    });
    expect(await stateOf(lab)).toEqual(before);
    await lab.restart(() => rmSync(lab.path(DATABASE)));
    expect(await stateOf(lab)).toEqual(before);
  });
});

describe("directories that are no snapshot's", () => {
  test("that were never finished are deleted, that have a record that cannot be read are kept", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    await lab.restart(() => {
      mkdirSync(lab.path("snapshots", "8", "fs"), { recursive: true });
      cpSync(lab.path("snapshots", "1"), lab.path("snapshots", "9"), { recursive: true });
      mkdirSync(lab.path("snapshots", "lost+found"));
    });
    lab.snapshotter.start();
    await lab.snapshotter.cleanup();
    expect(readdirSync(lab.path("snapshots")).sort()).toEqual(["1", "lost+found"]);
    expect(readdirSync(lab.path("damaged"))).toEqual(["9"]);
    expect(readFileSync(lab.path("damaged", "9", "fs", "base"), "utf8")).toBe("base");
    expect(readdirSync(lab.path("removed"))).toEqual([]);
  });

  test("of two records with one key the later one has it", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    await lab.layer("other");
    await lab.restart(() => {
      const path = lab.path("snapshots", "2", "snapshot.json");
      writeFileSync(path, readFileSync(path, "utf8").replace('"other"', '"base"'));
    });
    expect([lab.keys(), lab.snapshotter.stat("base").id]).toEqual([["base"], 2]);
    expect(readdirSync(lab.path("damaged"))).toEqual(["1"]);
  });

  test("do not stand in the way of a new snapshot that gets their number", async () => {
    await using lab = new SnapshotterLab();
    mkdirSync(lab.path("snapshots", "1", "fs"), { recursive: true });
    writeFileSync(lab.path("snapshots", "1", "fs", "old"), "");
    await lab.prepare("a");
    expect(readdirSync(lab.path("snapshots", "1", "fs"))).toEqual([]);
  });

  test("one snapshot without its parent breaks nothing else", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    await lab.prepare("child", "base");
    await lab.layer("fine");
    await lab.restart(() => {
      rmSync(lab.path(DATABASE));
      rmSync(lab.path("snapshots", "1"), { recursive: true });
    });
    lab.snapshotter.start();
    expect(lab.keys()).toEqual(["child", "fine"]);
    expect(await codeOf(() => lab.snapshotter.mounts("child", lab.signal))).toBe("ENOENT");
    expect(await codeOf(() => lab.prepare("c", "fine"))).toBe("nothing");
    await lab.snapshotter.remove("child");
  });
});

describe("Metastore", () => {
  test("a change whose files fail is no change", async () => {
    await using lab = new SnapshotterLab();
    await lab.snapshotter[Symbol.asyncDispose]();
    const dirs = new SnapshotDirs(lab.path());
    let isFull = false;
    const failing = {
      ids: () => dirs.ids(),
      read: (id: number) => dirs.read(id),
      retire: (id: number) => dirs.retire(id),
      make: (snapshot: Snapshot) => {
        dirs.make(snapshot, undefined);
        if (isFull) throw new NydusError("ENOSPC", "full");
      },
      write: (snapshot: Snapshot) => {
        dirs.write(snapshot);
        if (isFull) throw new NydusError("ENOSPC", "full");
      },
    } as unknown as SnapshotDirs;
    using store = new Metastore({ root: lab.path(), dirs: failing, now: () => 1, log: () => undefined });
    const made = { key: "a", parent: "", kind: "active", labels: new Map() } as const;
    store.create(made);
    const before = [store.list(), dirs.read(1)];
    isFull = true;
    expect(await codeOf(() => store.create({ ...made, key: "b" }))).toBe("ENOSPC");
    expect(await codeOf(() => store.relabel("a", () => new Map([["x", "1"]])))).toBe("ENOSPC");
    expect(await codeOf(() => store.commit("a", "c", { ...made, usage: { sizeBytes: 1, inodes: 1 } }))).toBe("ENOSPC");
    expect([store.list(), dirs.read(1)]).toEqual(before);
    expect(dirs.ids()).toEqual([1]);
    isFull = false;
    store.create({ ...made, key: "b" });
  });
});

describe("a snapshotter that cannot start", () => {
  test("because another one has the directory says so", async () => {
    await using lab = new SnapshotterLab();
    const { Snapshotter } = await import("../../../../src/service/snapshotter/snapshotter.ts");
    const options = { root: lab.root, mounts: lab.mounts, overlayOptions: [], log: () => undefined };
    expect(await codeOf(() => new Snapshotter(options))).toBe("EBUSY");
  });

  test.each([":", ",", "\\"])("because its path has a %s says so", async (separator) => {
    await using lab = new SnapshotterLab();
    const { Snapshotter } = await import("../../../../src/service/snapshotter/snapshotter.ts");
    const root = `${lab.root}${separator}x`;
    const options = { root, mounts: lab.mounts, overlayOptions: [], log: () => undefined };
    expect(await codeOf(() => new Snapshotter(options))).toBe("EINVAL");
  });
});
