import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { codeOf, SnapshotterLab } from "../../../kit/snapshotter.ts";

const isRoot = process.getuid?.() === 0;

describe("Snapshotter, as containerd's storage", () => {
  test("failures are those that clients know", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    await lab.prepare("active", "base");
    await lab.view("view", "base");
    expect(await codeOf(() => lab.prepare("active", "base"))).toBe("EEXIST");
    expect(await codeOf(() => lab.view("base", ""))).toBe("EEXIST");
    expect(await codeOf(() => lab.prepare("new", "nothing"))).toBe("ENOENT");
    expect(await codeOf(() => lab.prepare("new", "active"))).toBe("EINVAL");
    expect(await codeOf(() => lab.view("new", "view"))).toBe("EINVAL");
    expect(await codeOf(() => lab.prepare("", ""))).toBe("EINVAL");
    expect(await codeOf(() => lab.commit("nothing", "x"))).toBe("ENOENT");
    expect(await codeOf(() => lab.commit("view", "x"))).toBe("EBUSY");
    expect(await codeOf(() => lab.commit("base", "x"))).toBe("EBUSY");
    expect(await codeOf(() => lab.commit("active", "base"))).toBe("EEXIST");
    expect(await codeOf(() => lab.commit("active", "active"))).toBe("EEXIST");
    expect(await codeOf(() => lab.snapshotter.mounts("base", lab.signal))).toBe("EBUSY");
    expect(await codeOf(() => lab.snapshotter.mounts("nothing", lab.signal))).toBe("ENOENT");
    expect(await codeOf(() => lab.snapshotter.remove("base"))).toBe("EBUSY");
    expect(await codeOf(() => lab.snapshotter.remove("nothing"))).toBe("ENOENT");
    expect(await codeOf(() => lab.snapshotter.stat("nothing"))).toBe("ENOENT");
    expect(await codeOf(() => lab.snapshotter.usage("nothing"))).toBe("ENOENT");
    expect(await codeOf(() => lab.snapshotter.update("nothing", new Map(), []))).toBe("ENOENT");
    expect(await codeOf(() => lab.snapshotter.list(["=="]))).toBe("EINVAL");
    expect(lab.keys()).toEqual(["active", "base", "view"]);
  });

  test("what fails leaves no directory", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("a");
    await codeOf(() => lab.prepare("a"));
    await codeOf(() => lab.prepare("b", "nothing"));
    await codeOf(() => lab.prepare("c", "", { "containerd.io/snapshot/uidmapping": "x" }));
    expect(readdirSync(lab.path("snapshots"))).toEqual(["1"]);
  });

  test("committing replaces labels and times, and frees the key", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("a", "", { old: "1", empty: "" });
    const before = lab.snapshotter.stat("a");
    expect([...before.labels]).toEqual([["old", "1"]]);
    await lab.commit("a", "b", { new: "2", empty: "" });
    const after = lab.snapshotter.stat("b");
    expect([after.kind, after.id, [...after.labels]]).toEqual(["committed", before.id, [["new", "2"]]]);
    expect(after.createdMicros).toBeGreaterThan(before.createdMicros);
    expect(after.updatedMicros).toBe(after.createdMicros);
    expect(await codeOf(() => lab.snapshotter.stat("a"))).toBe("ENOENT");
  });

  test("a snapshot made without a parent gets one when it is committed, another one does not", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    await lab.layer("other");
    await lab.prepare("late");
    await lab.prepare("active");
    expect(await codeOf(() => lab.commit("late", "c", {}, "nothing"))).toBe("ENOENT");
    expect(await codeOf(() => lab.commit("late", "c", {}, "active"))).toBe("EBUSY");
    await lab.commit("late", "c", {}, "base");
    expect(lab.snapshotter.stat("c").parent).toBe("base");
    await lab.prepare("set", "base");
    expect(await codeOf(() => lab.commit("set", "d", {}, "other"))).toBe("EINVAL");
    await lab.commit("set", "d", {}, "base");
    expect(await codeOf(() => lab.snapshotter.remove("base"))).toBe("EBUSY");
  });

  test("labels change as a whole or one by one, nothing else does", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("a", "", { x: "1", y: "2" });
    const update = (labels: Record<string, string>, ...paths: string[]) =>
      Object.fromEntries(lab.snapshotter.update("a", new Map(Object.entries(labels)), paths).labels);
    expect(update({ x: "3", z: "4" }, "labels.x", "labels.y")).toEqual({ x: "3" });
    expect(update({ "a.b": "5" }, "labels.a.b")).toEqual({ x: "3", "a.b": "5" });
    expect(update({ z: "6" }, "labels")).toEqual({ z: "6" });
    expect(update({ __proto__x: "7" })).toEqual({ __proto__x: "7" });
    for (const path of ["parent", "kind", "label", "labels.", ""]) {
      expect(await codeOf(() => update({}, path))).toBe("EINVAL");
    }
    const { createdMicros, updatedMicros } = lab.snapshotter.stat("a");
    expect(updatedMicros).toBeGreaterThan(createdMicros);
  });

  test("filters see the key, the kind, the parent and the labels", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base", "", { "containerd.io/snapshot.ref": "sha256:ab" });
    await lab.prepare("active", "base");
    expect(lab.keys("kind==committed")).toEqual(["base"]);
    expect(lab.keys("parent==base", "name==base")).toEqual(["active", "base"]);
    expect(lab.keys('labels."containerd.io/snapshot.ref"==sha256:ab,parent==""')).toEqual(["base"]);
  });
});

describe("Snapshotter, as overlayfs", () => {
  test("mounts are those of containerd's own", async () => {
    await using lab = new SnapshotterLab();
    const dir = (id: number, name = "fs"): string => lab.path("snapshots", String(id), name);
    const bind = (id: number, access: string) => [
      { type: "bind", source: dir(id), target: "", options: [access, "rbind"] },
    ];
    expect(await lab.prepare("first")).toEqual(bind(1, "rw"));
    await lab.commit("first", "one");
    expect(await lab.view("nothing below")).toEqual(bind(2, "ro"));
    expect(await lab.view("one below", "one")).toEqual(bind(1, "ro"));
    const written = [`workdir=${dir(4, "work")}`, `upperdir=${dir(4)}`];
    const overlay = (...options: string[]) => [{ type: "overlay", source: "overlay", target: "", options }];
    const mounts = await lab.prepare("second", "one");
    expect(mounts).toEqual(overlay(...written, `lowerdir=${dir(1)}`, "index=off"));
    expect(await lab.snapshotter.mounts("second", lab.signal)).toEqual(mounts);
    await lab.commit("second", "two");
    expect(await lab.view("two below", "two")).toEqual(overlay(`lowerdir=${dir(4)}:${dir(1)}`, "index=off"));
  });

  test("directories have their modes whatever the umask, and only views have no work", async () => {
    await using lab = new SnapshotterLab();
    const umask = process.umask(0o077);
    try {
      await lab.prepare("a");
      await lab.view("b");
    } finally {
      process.umask(umask);
    }
    const mode = (...names: string[]): string => (statSync(lab.path("snapshots", ...names)).mode & 0o7777).toString(8);
    expect([mode("1"), mode("1", "fs"), mode("1", "work"), mode("2", "fs")]).toEqual(["700", "755", "711", "755"]);
    expect(existsSync(lab.path("snapshots", "2", "work"))).toBe(false);
  });

  test.skipIf(!isRoot)("the root directory has its parent's owner, or the one that its root is mapped to", async () => {
    await using lab = new SnapshotterLab();
    const owner = (key: string): number[] => {
      const { uid, gid } = statSync(lab.path("snapshots", String(lab.snapshotter.stat(key).id), "fs"));
      return [uid, gid];
    };
    await lab.prepare("a");
    chownSync(lab.path("snapshots", "1", "fs"), 12, 34);
    await lab.commit("a", "base");
    await lab.prepare("b", "base");
    expect(owner("b")).toEqual([12, 34]);
    const mapping = (kind: string): string => `containerd.io/snapshot/${kind}mapping`;
    await lab.prepare("c", "base", { [mapping("uid")]: "0:1000:10", [mapping("gid")]: "1:5:1,0:2000:10" });
    expect(owner("c")).toEqual([1000, 2000]);
    expect(await codeOf(() => lab.prepare("d", "base", { [mapping("uid")]: "0:1000:10" }))).toBe("EINVAL");
  });

  test("usage is that of du, measured when it is committed", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("a");
    const fs = lab.path("snapshots", "1", "fs");
    mkdirSync(join(fs, "d"));
    writeFileSync(join(fs, "d", "f"), Buffer.alloc(100_000));
    const { size, inodes } = await du(fs);
    expect(await lab.snapshotter.usage("a")).toEqual({ sizeBytes: size, inodes });
    await lab.commit("a", "b");
    chmodSync(fs, 0o755);
    writeFileSync(join(fs, "later"), "x".repeat(50_000));
    expect(await lab.snapshotter.usage("b")).toEqual({ sizeBytes: size, inodes });
  });
});

describe("Snapshotter under load", () => {
  test("of 50 that prepare one key one succeeds, and of 50 that remove it too", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    const times = Array.from({ length: 50 });
    const prepared = await Promise.all(times.map(() => codeOf(() => lab.prepare("k", "base"))));
    expect(prepared.filter((code) => code === "nothing")).toHaveLength(1);
    expect(new Set(prepared)).toEqual(new Set(["nothing", "EEXIST"]));
    const removed = await Promise.all(times.map(() => codeOf(() => lab.snapshotter.remove("k"))));
    expect(removed.filter((code) => code === "nothing")).toHaveLength(1);
    expect(new Set(removed)).toEqual(new Set(["nothing", "ENOENT"]));
    await lab.snapshotter.cleanup();
    expect(readdirSync(lab.path("snapshots"))).toEqual(["1"]);
    expect(readdirSync(lab.path("removed"))).toEqual([]);
  });

  test("of 50 that commit one key one succeeds, whatever else is done with it", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("k");
    const calls = Array.from({ length: 50 }, (_, i) => [
      codeOf(() => lab.commit("k", `c${i}`)),
      codeOf(() => lab.snapshotter.mounts("k", lab.signal)),
      codeOf(() => lab.snapshotter.usage("k")),
    ]);
    const codes = await Promise.all(calls.flat());
    expect(new Set(codes)).toEqual(new Set(["nothing", "ENOENT"]));
    expect(lab.keys()).toEqual(["c0"]);
  });

  test("whatever a removed snapshot holds is deleted", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("a");
    const fs = lab.path("snapshots", "1", "fs");
    mkdirSync(join(fs, "deep", "er"), { recursive: true });
    writeFileSync(Buffer.concat([Buffer.from(`${fs}/deep/`), Buffer.from([0xff, 0xfe])]), "");
    symlinkSync("/etc", join(fs, "link"));
    chmodSync(join(fs, "deep"), 0);
    await lab.snapshotter.remove("a");
    expect(await codeOf(() => lab.snapshotter.stat("a"))).toBe("ENOENT");
    await lab.snapshotter.cleanup();
    expect([...readdirSync(lab.path("removed")), ...readdirSync(lab.path("snapshots"))]).toEqual([]);
    expect(existsSync("/etc/passwd")).toBe(true);
  });

  test("cleanup may be called by many at once and again, and closing twice is closing once", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("base");
    mkdirSync(lab.path("snapshots", "77", "fs"), { recursive: true });
    await Promise.all(Array.from({ length: 20 }, () => lab.snapshotter.cleanup()));
    await lab.snapshotter.cleanup();
    expect(readdirSync(lab.path("snapshots"))).toEqual(["1"]);
    await lab.snapshotter[Symbol.asyncDispose]();
    await lab.snapshotter[Symbol.asyncDispose]();
    expect(existsSync(lab.path("snapshots", "1", "fs", "base"))).toBe(true);
  });
});

/** What du(1) says of a directory. */
async function du(dir: string): Promise<{ size: number; inodes: number }> {
  const ask = async (...flags: string[]): Promise<number> =>
    Number.parseInt(await Bun.$`du -s ${flags} ${dir}`.text(), 10);
  return { size: await ask("--block-size=1"), inodes: await ask("--inodes") };
}
