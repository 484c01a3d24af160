import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import { codeOf, SnapshotterLab } from "../../../kit/snapshotter.ts";

const REF = "containerd.io/snapshot.ref";
const BLOB = "containerd.io/snapshot/nydus-blob";
const BOOTSTRAP = "containerd.io/snapshot/nydus-bootstrap";
const DIGEST = "containerd.io/snapshot/cri.layer-digest";

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;
const blob = (chain: string, letter: string) => ({ [REF]: chain, [BLOB]: "true", [DIGEST]: digest(letter) });
const bootstrap = (chain: string) => ({ [REF]: chain, [BOOTSTRAP]: "true" });

/** An image of two blobs: its bootstrap is snapshot 3, `ns/3/top`. */
async function unpackImage(lab: SnapshotterLab): Promise<void> {
  expect(await codeOf(() => lab.prepare("ns/1/x", "", blob("chain1", "a")))).toBe("EEXIST");
  expect(await codeOf(() => lab.prepare("ns/2/x", "chain1", blob("chain2", "b")))).toBe("EEXIST");
  await lab.layer("ns/3/top", "chain2", bootstrap("top"));
}

describe("Nydus images", () => {
  test("a blob layer is committed at once, where clients look for it, and one for all", async () => {
    await using lab = new SnapshotterLab();
    expect(await codeOf(() => lab.prepare("ns/1/x", "", blob("chain1", "a")))).toBe("EEXIST");
    const filter = `labels."${REF}"==chain1,parent==""`;
    expect(lab.keys(filter)).toEqual(["chain1"]);
    expect(lab.snapshotter.stat("chain1").kind).toBe("committed");
    expect(await codeOf(() => lab.prepare("other/1/x", "", blob("chain1", "a")))).toBe("EEXIST");
    expect(lab.keys()).toEqual(["chain1"]);
  });

  test("a blob layer of the same name on another parent has another key", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("ns/1/plain");
    await codeOf(() => lab.prepare("ns/2/x", "", blob("chain", "a")));
    expect(await codeOf(() => lab.prepare("ns/3/x", "ns/1/plain", blob("chain", "a")))).toBe("EEXIST");
    expect(lab.keys(`labels."${REF}"==chain,parent==ns/1/plain`)).toEqual(["ns/3/x"]);
  });

  test("a blob layer is no way to the files of a layer that somebody else has unpacked", async () => {
    await using lab = new SnapshotterLab();
    await lab.layer("other/1/chain", "", { [REF]: "chain" });
    expect(await codeOf(() => lab.prepare("ns/2/x", "", blob("chain", "a")))).toBe("EBUSY");
    expect(lab.keys()).toEqual(["other/1/chain"]);
  });

  test("a blob layer needs its parent, as any other", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("active");
    expect(await codeOf(() => lab.prepare("ns/2/x", "gone", blob("chain", "a")))).toBe("ENOENT");
    expect(await codeOf(() => lab.prepare("ns/2/x", "active", blob("chain", "a")))).toBe("EINVAL");
  });

  test("the bootstrap layer is unpacked into a directory of its own", async () => {
    await using lab = new SnapshotterLab();
    await codeOf(() => lab.prepare("ns/1/x", "", blob("chain1", "a")));
    const mounts = await lab.prepare("unpacking", "chain1", bootstrap("top"));
    expect(mounts).toEqual([
      { type: "bind", source: lab.path("snapshots", "2", "fs"), target: "", options: ["rw", "rbind"] },
    ]);
    expect(await lab.snapshotter.mounts("unpacking", lab.signal)).toEqual(mounts);
    expect(await codeOf(() => lab.prepare("more", "gone", bootstrap("top")))).toBe("ENOENT");
    expect(lab.mounts.calls).toEqual([]);
  });

  test("containers share one mount of the image, below what stands on it", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    const [mount] = await lab.prepare("c1", "ns/3/top");
    const image = lab.path("snapshots", "3", "mnt");
    expect(mount?.options).toEqual([
      `workdir=${lab.path("snapshots", "4", "work")}`,
      `upperdir=${lab.path("snapshots", "4", "fs")}`,
      `lowerdir=${image}`,
      "index=off",
    ]);
    const { name, bootstrapDir, labels, snapshotId } = [...lab.mounts.mounted.values()][0] ?? {};
    expect([name, bootstrapDir, snapshotId]).toEqual(["ns/3/top", lab.path("snapshots", "3", "fs"), "3"]);
    expect(labels?.get(REF)).toBe("top");
    await lab.layer("ns/5/committed", "ns/3/top");
    const [above] = await lab.prepare("c2", "ns/5/committed");
    expect(above?.options).toContain(`lowerdir=${lab.path("snapshots", "5", "fs")}:${image}`);
    expect([...lab.mounts.mounted.keys()]).toEqual([image]);
  });

  test("a view of an image shows its files", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    const image = lab.path("snapshots", "3", "mnt");
    expect(await lab.view("v", "ns/3/top")).toEqual([
      { type: "bind", source: image, target: "", options: ["ro", "rbind"] },
    ]);
    await lab.layer("above", "ns/3/top");
    const [overlay] = await lab.view("w", "above");
    expect(overlay?.options).toEqual([`lowerdir=${lab.path("snapshots", "5", "fs")}:${image}`, "index=off"]);
  });

  test("layers that are unpacked on blobs get along, but no container runs without a bootstrap", async () => {
    await using lab = new SnapshotterLab();
    await codeOf(() => lab.prepare("ns/1/x", "", blob("chain1", "a")));
    await lab.layer("plain", "chain1", { [REF]: "chain2" });
    expect(await codeOf(() => lab.prepare("c", "plain"))).toBe("EBUSY");
    expect(await codeOf(() => lab.view("c", "chain1"))).toBe("EBUSY");
    expect(lab.keys()).toEqual(["chain1", "plain"]);
  });

  test("what the bootstrap is, is kept when it has been unpacked, and told to who mounts it; a restart changes nothing", async () => {
    await using lab = new SnapshotterLab();
    await lab.prepare("unpacking", "", bootstrap("top"));
    const file = lab.path("snapshots", "1", "fs", "image", "image.boot");
    mkdirSync(join(file, ".."));
    writeFileSync(file, "as it was unpacked");
    await lab.commit("unpacking", "ns/1/top", bootstrap("top"));
    writeFileSync(file, "as it was changed");
    await lab.restart();
    await lab.prepare("c", "ns/1/top");
    const sha256 = new Bun.SHA256().update("as it was unpacked").digest("hex");
    expect([...lab.mounts.mounted.values()].map(({ bootstrapSha256 }) => bootstrapSha256)).toEqual([sha256]);
    writeFileSync(lab.path("snapshots", "1", "bootstrap.sha256"), "");
    expect(await codeOf(() => lab.prepare("d", "ns/1/top"))).toBe("EUCLEAN");
    rmSync(lab.path("snapshots", "1", "bootstrap.sha256")); // as earlier versions have left it
    await lab.prepare("d", "ns/1/top");
  });

  test("an image that cannot be mounted fails its caller, and leaves nothing", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    lab.mounts.failure = new NydusError("EUCLEAN", "bad bootstrap");
    expect(await codeOf(() => lab.prepare("c", "ns/3/top"))).toBe("EUCLEAN");
    expect(await codeOf(() => lab.view("c", "ns/3/top"))).toBe("EUCLEAN");
    expect(readdirSync(lab.path("snapshots")).sort()).toEqual(["1", "2", "3"]);
    lab.mounts.failure = undefined;
    await lab.prepare("c", "ns/3/top");
  });

  test("removing the bootstrap unmounts; while that fails its directory stays, and is nobody's snapshot", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    await lab.prepare("c", "ns/3/top");
    expect(await codeOf(() => lab.snapshotter.remove("ns/3/top"))).toBe("EBUSY");
    await lab.snapshotter.remove("c");
    lab.mounts.failure = new NydusError("EBUSY", "files are open");
    await lab.snapshotter.remove("ns/3/top");
    expect(existsSync(lab.path("snapshots", "3"))).toBe(true);
    expect(await codeOf(() => lab.prepare("d", "ns/3/top"))).toBe("ENOENT");
    await lab.snapshotter.cleanup();
    expect(existsSync(lab.path("snapshots", "3"))).toBe(true);
    await lab.restart();
    expect(lab.keys()).toEqual(["chain1", "chain2"]);
    lab.mounts.failure = undefined;
    await lab.snapshotter.cleanup();
    expect(existsSync(lab.path("snapshots", "3"))).toBe(false);
  });

  test("what mounts an image and what removes it wait for each other", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    let open: () => void = () => undefined;
    lab.mounts.gate = new Promise((resolve) => {
      open = resolve;
    });
    const prepared = codeOf(() => lab.prepare("c", "ns/3/top"));
    const removed = codeOf(() => lab.snapshotter.remove("ns/3/top"));
    await Bun.sleep(20);
    open();
    expect([await prepared, await removed]).toEqual(["nothing", "EBUSY"]);
    await lab.snapshotter.remove("c");
    const both = [codeOf(() => lab.snapshotter.remove("ns/3/top")), codeOf(() => lab.prepare("d", "ns/3/top"))];
    expect(await Promise.all(both)).toEqual(["nothing", "ENOENT"]);
    expect(lab.mounts.calls.at(-1)).toBe("umount 3");
  });

  test("usage of a blob is what is cached of it; cleanup keeps the blobs that snapshots stand for", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    expect(await lab.snapshotter.usage("chain1")).toEqual({ sizeBytes: 4096, inodes: 0 });
    await lab.snapshotter.cleanup();
    await lab.snapshotter.remove("ns/3/top");
    await lab.snapshotter.remove("chain2");
    await lab.snapshotter.cleanup();
    expect(lab.mounts.swept).toEqual([["a".repeat(64), "b".repeat(64)], ["a".repeat(64)]]);
  });

  test("no cache goes while a blob layer does not say which it is", async () => {
    await using lab = new SnapshotterLab();
    await codeOf(() => lab.prepare("ns/1/x", "", { [REF]: "chain", [BLOB]: "true", [DIGEST]: "sha256:../../etc" }));
    await lab.snapshotter.cleanup();
    expect(lab.mounts.swept).toEqual([]);
    expect(await lab.snapshotter.usage("chain")).toEqual({ sizeBytes: 0, inodes: 0 });
  });

  test("after a restart what containers stand on is mounted again, and one that fails stops nothing", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    await lab.layer("idle", "", { [BOOTSTRAP]: "true" });
    await lab.layer("second", "", { [BOOTSTRAP]: "true" });
    await lab.prepare("c", "ns/3/top");
    await lab.view("d", "second");
    await lab.restart(() => {
      lab.mounts.mounted.clear();
      lab.mounts.calls.length = 0;
      lab.mounts.failure = new NydusError("EIO", "the registry is gone");
    });
    lab.snapshotter.start();
    expect(await codeOf(() => lab.prepare("plain"))).toBe("nothing");
    while (lab.mounts.calls.length < 2) await Bun.sleep(5);
    expect(lab.mounts.calls).toEqual(["mount 3", "mount 5"]);
    expect(await codeOf(() => lab.snapshotter.mounts("c", lab.signal))).toBe("EIO");
    lab.mounts.failure = undefined;
    expect(await codeOf(() => lab.snapshotter.mounts("c", lab.signal))).toBe("nothing");
    expect(lab.log.filter((line) => line.includes("the registry is gone"))).toHaveLength(2);
  });

  test("closing unmounts nothing and removes nothing", async () => {
    await using lab = new SnapshotterLab();
    await unpackImage(lab);
    await lab.prepare("c", "ns/3/top");
    const before = lab.keys();
    await lab.restart();
    expect([lab.keys(), lab.mounts.mounted.size, lab.mounts.closed]).toEqual([before, 1, true]);
  });
});
