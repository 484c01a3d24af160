import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes } from "../../../../src/base/bytes.ts";
import type { TarMember } from "../../../../src/format/tar/writer.ts";
import { LayerTree } from "../../../../src/format/tree/build.ts";
import type { TreeNode } from "../../../../src/format/tree/node.ts";
import { tarBytes } from "../../../kit/layer-stack.ts";
import { listNodes } from "../../../kit/list-nodes.ts";
import { contentHash, layerTreeOf, streamOf } from "../../../kit/overlay-oracle.ts";
import { Random } from "../../../kit/random.ts";
import { diffTrees, treeOf } from "../../../kit/tree.ts";

const isRoot = process.getuid?.() === 0;
let dir = "";

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-tar-"));
  if (isRoot) makeTree(join(dir, "tree"));
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

function run(command: string, ...args: string[]): void {
  const result = spawnSync(command, args, { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${command}: ${result.stderr}${result.error ?? ""}`);
}

/** Everything that tar knows, with names and links that fit ustar's fields when cut from the head. */
function makeTree(root: string): void {
  const long = join(root, "d".repeat(60), "e".repeat(60));
  mkdirSync(long, { recursive: true });
  writeFileSync(join(long, "f".repeat(90)), "prefix");
  writeFileSync(join(root, "small"), "small");
  writeFileSync(join(root, "empty"), "");
  writeFileSync(Buffer.concat([Buffer.from(`${root}/raw`), Buffer.from([0xff, 0xfe])]), "raw");
  writeFileSync(join(root, "block"), "x".repeat(1024));
  linkSync(join(root, "small"), join(root, "small-too"));
  symlinkSync("../target", join(root, "link"));
  run("mkfifo", join(root, "fifo"));
  run("mknod", join(root, "null"), "c", "1", "3");
  run("mknod", join(root, "big"), "b", "260", "70000");
  const sparse = openSync(join(root, "sparse"), "w");
  for (const at of [0, 100_000, 300_000, 500_000, 700_000, 900_000]) writeSync(sparse, `at ${at}`, at * 4);
  ftruncateSync(sparse, 5_000_000);
  closeSync(sparse);
  for (const name of ["small", "empty", "block", "sparse", "."]) utimesSync(join(root, name), 1e9, 1234567890);
}

describe.skipIf(!isRoot)("readTar() reads what GNU tar writes", () => {
  test.each([
    ["ustar", []],
    ["gnu", []],
    ["oldgnu", ["--sparse"]],
    ["gnu", ["--sparse"]],
    ["posix", []],
    ["posix", ["--sparse", "--sparse-version=0.0"]],
    ["posix", ["--sparse", "--sparse-version=0.1"]],
    ["posix", ["--sparse", "--sparse-version=1.0"]],
  ])("in format %s %j", async (format, options) => {
    const file = join(dir, "gnu.tar");
    run("tar", `--format=${format}`, ...options, "-C", join(dir, "tree"), "-cf", file, ".");
    const ours = listNodes(await layerTreeOf(streamOf(readFileSync(file), 10_000)), { sha256: contentHash });
    const theirs = await treeOf(join(dir, "tree"));
    const seconds = (text: string): string => String(BigInt(text) / 1_000_000_000n);
    const differences = diffTrees(ours, theirs, {
      ignore: (field, a, b) => field === "mtime" && format !== "posix" && seconds(a.mtime) === seconds(b.mtime),
    });
    expect(differences).toEqual([]);
  });

  test("in format v7, whose names are short", async () => {
    const file = join(dir, "v7.tar");
    run("tar", "--format=v7", "-C", join(dir, "tree"), "-cf", file, "small", "small-too", "link", "empty");
    const ours = listNodes(await layerTreeOf(streamOf(readFileSync(file))), { sha256: contentHash });
    const theirs = (await treeOf(join(dir, "tree"))).filter(({ path }) =>
      ["/small", "/small-too", "/link", "/empty"].includes(path),
    );
    const differences = diffTrees(ours.slice(1), theirs, { ignore: (field) => field === "mtime" });
    expect(differences).toEqual([]);
  });
});

/** Members of all types with every kind of excess. */
function makeMembers(seed: number): TarMember[] {
  const random = new Random(seed);
  const raw = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0));
  const longName = "n".repeat(255);
  const at = { mtimeSec: 1_700_000_000, mtimeNsec: 0 };
  const content = random.bytes(70_000);
  return [
    { path: raw("d"), type: "dir", mode: 0o2755, uid: 3, gid: 4, ...at, xattrs: new Map([["user.dir", raw("yes")]]) },
    {
      path: raw("d/file"),
      type: "file",
      mode: 0o4755,
      ...at,
      mtimeNsec: 123456789,
      sizeBytes: 70_000,
      content: [content],
    },
    { path: raw("d/hard"), type: "hardlink", mode: 0, linkPath: raw("d/file") },
    {
      path: raw(`d/${longName}`),
      type: "file",
      mode: 0o600,
      uid: 3_000_000,
      gid: 0xfffffffe,
      mtimeSec: -5,
      mtimeNsec: 250_000_000,
    },
    { path: raw(`d/${longName.slice(0, 200)}\xff\xfe`), type: "file", mode: 0, mtimeSec: 4_500_000_000, mtimeNsec: 1 },
    { path: raw(`d/${"p".repeat(90)}`), type: "dir", mode: 0o700, mtimeSec: 0 },
    {
      path: raw(`d/${"p".repeat(90)}/raw\xff\n`),
      type: "symlink",
      mode: 0o777,
      ...at,
      linkPath: raw(`\xfe${"t".repeat(2000)}`),
    },
    { path: raw("d/dev"), type: "char", mode: 0o660, ...at, rdevMajor: 260, rdevMinor: 70_000 },
    { path: raw("d/block"), type: "block", mode: 0o660, ...at, rdevMajor: 7, rdevMinor: 1 },
    { path: raw("d/fifo"), type: "fifo", mode: 0o600, mtimeSec: -1, mtimeNsec: 0 },
    {
      path: raw("d/x"),
      type: "file",
      mode: 0o644,
      ...at,
      xattrs: new Map([
        ["user.b", raw("2\n\0\xff")],
        ["user.a", raw("")],
        ["trusted.t", random.bytes(900)],
      ]),
    },
  ];
}

/** The members' tree without a tar between: what the writer was asked for. Contents stand in the chunks' digests. */
function treeOfMembers(members: readonly TarMember[]): TreeNode {
  const tree = new LayerTree();
  for (const { content, ...member } of members) {
    const entry = { ...NO_ENTRY, ...member };
    const node = tree.add(entry);
    if (content !== undefined) node.chunks = [{ ...NO_CHUNK, digest: concatBytes([...(content as Uint8Array[])]) }];
  }
  return tree.root;
}

const NO_ENTRY = {
  uid: 0,
  gid: 0,
  mtimeSec: 0,
  mtimeNsec: 0,
  sizeBytes: 0,
  linkPath: new Uint8Array(0),
  rdevMajor: 0,
  rdevMinor: 0,
  xattrs: new Map<string, Uint8Array>(),
  offset: 0,
};
const NO_CHUNK = {
  blob: 0,
  index: 0,
  compressed: false,
  blobOffset: 0,
  blobSizeBytes: 0,
  deviceOffset: 0,
  sizeBytes: 0,
};

function hashOfContent(node: TreeNode): string {
  return createHash("sha256")
    .update(node.chunks[0]?.digest ?? "")
    .digest("hex");
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

describe("writeTar()", () => {
  test.skipIf(!isRoot)("is extracted by GNU tar to the tree that its members are", async () => {
    const file = join(dir, "ours.tar");
    const out = join(dir, "out");
    const tar = await tarBytes(makeMembers(1));
    writeFileSync(file, tar);
    mkdirSync(out);
    run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", file, "-C", out);
    const ours = listNodes(treeOfMembers(makeMembers(1)), { sha256: hashOfContent }).slice(1);
    const theirs = (await treeOf(out)).slice(1);
    expect(diffTrees(ours, theirs)).toEqual([]);
    expect(ours).toHaveLength(11);
    expect(diffTrees(listNodes(await layerTreeOf(once(tar)), { sha256: contentHash }).slice(1), ours)).toEqual([]);
  });

  test("gives the same bytes each time", async () => {
    expect(await tarBytes(makeMembers(2))).toEqual(await tarBytes(makeMembers(2)));
  });

  test("refuses a socket and a content of another size", async () => {
    const path = Uint8Array.of(0x61);
    await expect(tarBytes([{ path, type: "socket", mode: 0 }])).rejects.toMatchObject({ code: "EINVAL" });
    for (const size of [2, 4]) {
      const member: TarMember = { path, type: "file", mode: 0, sizeBytes: size, content: [new Uint8Array(3)] };
      await expect(tarBytes([member])).rejects.toMatchObject({ code: "EFAULT" });
    }
  });

  test("an xattr whose name holds an equals sign survives", async () => {
    const xattrs = new Map([["user.a=b\xff", Uint8Array.of(0, 255, 10)]]);
    const tar = await tarBytes([{ path: Uint8Array.of(0x61), type: "file", mode: 0, xattrs }]);
    expect((await layerTreeOf(once(tar))).children.get("a")?.xattrs).toEqual(xattrs);
  });
});
