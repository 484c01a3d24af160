import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { NydusError } from "../../../../../src/base/errors.ts";
import { ErofsReader } from "../../../../../src/format/erofs/reader.ts";
import { encodeBootstrap } from "../../../../../src/format/rafs/writer.ts";
import { makeNode } from "../../../../../src/format/tree/node.ts";
import { buildChunkTable, type ChunkTable, chunkTableOf } from "../../../../../src/operation/mount/chunk-table.ts";
import {
  AccessTrace,
  type AccessTraceOptions,
  type TraceLine,
} from "../../../../../src/operation/mount/trace/access-trace.ts";
import { TraceFile } from "../../../../../src/operation/mount/trace/file.ts";
import {
  makeTraceMemory,
  noteAccess,
  readTraceRow,
  type TraceMemory,
  type TraceRow,
} from "../../../../../src/operation/mount/trace/memory.ts";
import { TracePaths } from "../../../../../src/operation/mount/trace/paths.ts";
import { mapFile } from "../../../../../src/os/mmap.ts";
import { LAB_CHUNK_BYTES, type LabImage, makeLabImage } from "../../../../kit/erofs-lab.ts";
import { randomOf } from "../../../../kit/fake-blob.ts";
import { evenChunks } from "../../../../kit/raw-device.ts";
import { failureOf } from "../../../../suite/byte-source.ts";

const CHUNK = 4096;
let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-trace-"));
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

function rowsOf(trace: TraceMemory): Omit<TraceRow, "timeMs">[] {
  const rows: Omit<TraceRow, "timeMs">[] = [];
  for (let row = readTraceRow(trace, 0); row !== undefined; row = readTraceRow(trace, rows.length)) {
    const { timeMs, ...rest } = row;
    expect(Math.abs(timeMs - Date.now())).toBeLessThan(60_000);
    rows.push(rest);
  }
  return rows;
}

/** Notes accesses of an only device. */
function noterOf(trace: TraceMemory, chunks: ChunkTable): (start: number, end: number, nid?: number) => void {
  return (start, end, nid) => noteAccess({ trace, slot: 1, chunks }, { start, end }, nid);
}

describe("noted accesses", () => {
  test("are runs of chunks that nobody has accessed before", () => {
    const chunks = buildChunkTable(evenChunks(10 * CHUNK, CHUNK));
    const trace = makeTraceMemory([chunks]);
    const note = noterOf(trace, chunks);
    note(3 * CHUNK + 1, 3 * CHUNK + 2, 7);
    note(3 * CHUNK, 4 * CHUNK, 7);
    note(5 * CHUNK, 5 * CHUNK); // nothing
    note(CHUNK, 6 * CHUNK, 8);
    note(0, 100 * CHUNK);
    expect(rowsOf(trace)).toEqual([
      { slot: 1, first: 3, end: 4, nid: 7 },
      { slot: 1, first: 1, end: 3, nid: 8 },
      { slot: 1, first: 4, end: 6, nid: 8 },
      { slot: 1, first: 0, end: 1, nid: undefined },
      { slot: 1, first: 6, end: 10, nid: undefined },
    ]);
  });

  test("of threads at once are each chunk once, and their rows are whole", async () => {
    const count = 20_000;
    const chunks = buildChunkTable(evenChunks(count * CHUNK, CHUNK));
    const trace = makeTraceMemory([chunks]);
    const url = new URL("../../../../../src/operation/mount/trace/memory.ts", import.meta.url).href;
    const block = 500;
    const arrived = new Int32Array(new SharedArrayBuffer((4 * count) / block));
    const code = `
      const { workerData } = require("node:worker_threads");
      import(${JSON.stringify(url)}).then(({ noteAccess }) => {
        const { trace, chunks, nid, arrived } = workerData;
        for (let i = 0; i < ${count}; i++) {
          if (i % ${block} === 0) {
            Atomics.add(arrived, i / ${block}, 1);
            while (Atomics.load(arrived, i / ${block}) < 2);
          }
          noteAccess({ trace, slot: 1, chunks }, { start: i * ${CHUNK}, end: (i + 1) * ${CHUNK} }, nid);
        }
      });`;
    const workers = [1, 2].map((nid) => new Worker(code, { eval: true, workerData: { trace, chunks, nid, arrived } }));
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("exit", resolve))));
    noterOf(trace, chunks)(0, count * CHUNK);
    const seen = new Uint8Array(count);
    for (const { first, end } of rowsOf(trace)) for (let i = first; i < end; i++) seen[i] = (seen[i] as number) + 1;
    expect(seen.every((times) => times === 1)).toBe(true);
    expect(new Set(rowsOf(trace).map(({ nid }) => nid)).size).toBeGreaterThan(1);
  });

  test("of an image without data have room for none", () => {
    const chunks = buildChunkTable(evenChunks(0, CHUNK));
    const trace = makeTraceMemory([chunks]);
    noterOf(trace, chunks)(0, CHUNK);
    expect(rowsOf(trace)).toEqual([]);
  });
});

describe("paths of an image", () => {
  /** The lab's image: `b<blob>f<file>`. */
  async function labPaths(shape: {
    blobs: number;
    filesPerBlob: number;
  }): Promise<[LabImage, TracePaths, ErofsReader]> {
    const image = makeLabImage(join(dir, `lab-${shape.blobs}`), { ...shape, fileBytes: 150_000 });
    const reader = new ErofsReader(new Uint8Array(readFileSync(image.bootstrapPath)));
    const devices = image.openDevices();
    const paths = await TracePaths.of({ reader, devices: devices.map(({ chunks }) => chunkTableOf(chunks)) });
    for (const device of devices) device[Symbol.dispose]();
    return [image, paths, reader];
  }

  const textOf = (path: Uint8Array | undefined): string | undefined => path && Buffer.from(path).toString("latin1");

  test("lead from a chunk to the file that has it", async () => {
    const [image, paths, reader] = await labPaths({ blobs: 2, filesPerBlob: 3 });
    const found = [1, 2].map((slot) => {
      return Array.from({ length: 9 }, (_, chunk) => textOf(paths.pathOf(paths.ownerOf(slot, chunk) ?? 0)));
    });
    const wanted = [0, 1].map((blob) => [0, 1, 2].flatMap((file) => Array(3).fill(`b${blob}f${file}`)));
    expect(found).toEqual(wanted);
    expect(paths.ownerOf(1, 9)).toBeUndefined();
    expect(paths.ownerOf(3, 0)).toBeUndefined();
    expect(textOf(paths.pathOf(reader.rootNid))).toBe("");
    expect(paths.pathOf(10 ** 9)).toBeUndefined();
    expect(image.files.size).toBe(6);
  });

  /** Files by path over one blob, each of some of its chunks; the same text is the same inode. */
  function treeImage(files: readonly (readonly [path: string, chunks: readonly number[], link?: string])[]) {
    const root = makeNode("dir");
    const inodes = new Map<string, ReturnType<typeof makeNode>>();
    for (const [path, numbers, link = path] of files) {
      const parts = path.split("/");
      const name = parts.pop() as string;
      let parent = root;
      for (const part of parts) {
        const child = parent.children.get(part) ?? makeNode("dir");
        parent.children.set(part, child);
        parent = child;
      }
      const chunks = numbers.map((i) => ({
        ...{ blob: 0, index: i, digest: new Uint8Array(32).fill(i), compressed: false },
        ...{ blobOffset: i * LAB_CHUNK_BYTES, blobSizeBytes: LAB_CHUNK_BYTES },
        ...{ deviceOffset: i * LAB_CHUNK_BYTES, sizeBytes: LAB_CHUNK_BYTES },
      }));
      const more = { sizeBytes: chunks.length * LAB_CHUNK_BYTES, chunks, xattrs: new Map(), children: new Map() };
      const node = inodes.get(link) ?? makeNode("file", more);
      inodes.set(link, node);
      parent.children.set(name, node);
    }
    return root;
  }

  async function treePaths(root: ReturnType<typeof makeNode>, chunkCount: number): Promise<[TracePaths, ErofsReader]> {
    const lab = makeLabImage(join(dir, "record"), {
      blobs: 1,
      filesPerBlob: 1,
      fileBytes: chunkCount * LAB_CHUNK_BYTES,
    });
    const { openRafs } = await import("../../../../../src/format/rafs/image.ts");
    const record = openRafs(new Uint8Array(readFileSync(lab.bootstrapPath))).blobs[0];
    if (record === undefined) throw new Error("the lab's image has a blob");
    const image = {
      root,
      blobs: [record],
      chunkBytes: LAB_CHUNK_BYTES,
      compressor: "none",
      digester: "sha256",
    } as const;
    const reader = new ErofsReader(encodeBootstrap(image));
    const table = buildChunkTable(evenChunks(chunkCount * LAB_CHUNK_BYTES, LAB_CHUNK_BYTES));
    return [await TracePaths.of({ reader, devices: [table] }), reader];
  }

  test("of hard links and shared chunks are the first in the order of directories", async () => {
    const root = treeImage([
      ["a/z", [0], "linked"],
      ["b/deep/er/a", [0], "linked"],
      ["c", [2, 1]],
      ["d", [1, 3]],
    ]);
    const [paths, reader] = await treePaths(root, 5);
    const owners = [0, 1, 2, 3, 4].map((chunk) => paths.ownerOf(1, chunk));
    expect(owners.map((nid) => nid && textOf(paths.pathOf(nid)))).toEqual(["a/z", "c", "c", "d", undefined]);
    const linked = reader.lookup(reader.lookup(reader.rootNid, Buffer.from("a"))?.nid ?? 0, Buffer.from("z"))?.nid;
    expect(textOf(paths.pathOf(linked ?? 0))).toBe("a/z");
  });

  test("are those of a reader that walks the tree, for thousands of files", async () => {
    const random = randomOf(5);
    const names = Array.from({ length: 3000 }, (_, i) => `d${random(9)}/e${random(9)}/${"n".repeat(random(200))}${i}`);
    const [paths, reader] = await treePaths(treeImage(names.map((name) => [name, []])), 1);
    const { walkImage } = await import("../../../../../src/operation/image/walk.ts");
    let files = 0;
    for (const { path, inode } of walkImage(reader)) {
      expect(textOf(paths.pathOf(inode.nid))).toBe(textOf(path));
      if (inode.type === "file") files++;
    }
    expect(files).toBe(3000);
  });

  test("of damaged images are found or not, and end (seeds 1 to 200)", async () => {
    const image = makeLabImage(join(dir, "damaged"), { blobs: 1, filesPerBlob: 40, fileBytes: 150_000 });
    const good = new Uint8Array(readFileSync(image.bootstrapPath));
    const table = buildChunkTable(evenChunks(120 * LAB_CHUNK_BYTES, LAB_CHUNK_BYTES));
    for (let seed = 1; seed <= 200; seed++) {
      const random = randomOf(seed);
      const bytes = good.slice();
      for (let i = 0; i < 20; i++) bytes[2048 + random(bytes.length - 2048)] = random(256);
      let reader: ErofsReader;
      try {
        reader = new ErofsReader(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(NydusError);
        continue;
      }
      const paths = await TracePaths.of({ reader, devices: [table] });
      for (let chunk = 0; chunk < 120; chunk++) paths.pathOf(paths.ownerOf(1, chunk) ?? 0);
    }
  });
});

describe("the file of a trace", () => {
  test("is made for its owner alone, or emptied once the mount is made", async () => {
    const path = join(dir, "fresh");
    await using fresh = await TraceFile.open(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await fresh.append("a\n");
    await fresh.append("b\n");
    expect(readFileSync(path, "utf8")).toBe("a\nb\n");
    const old = join(dir, "old");
    writeFileSync(old, "what an earlier one left\n");
    await using again = await TraceFile.open(old);
    expect(readFileSync(old, "utf8")).toBe("what an earlier one left\n");
    await again.clear();
    await again.append("new\n");
    expect(readFileSync(old, "utf8")).toBe("new\n");
  });

  test("is one mount's, as long as that has it open", async () => {
    const path = join(dir, "one");
    {
      await using _ = await TraceFile.open(path);
      expect((await failureOf(TraceFile.open(path))).code).toBe("EBUSY");
    }
    await using _ = await TraceFile.open(path);
  });

  test.each([
    ["a directory", (path: string) => mkdirSync(path), "Cannot write trace: "],
    ["a pipe that nobody reads", (path: string) => spawnSync("mkfifo", [path]), "Cannot write trace: "],
    ["a device", (path: string) => symlinkSync("/dev/null", path), "Cannot write trace: no regular file"],
    ["below a file", (path: string) => writeFileSync(path, ""), "Cannot write trace: "],
  ])("is refused at once where there is %s", async (what, make, message) => {
    const path = join(dir, `no-${what.replaceAll(" ", "-")}`);
    make(path);
    const asked = what === "below a file" ? join(path, "trace") : path;
    const failure = await failureOf(TraceFile.open(asked));
    expect(failure.message).toStartWith(message);
    expect(failure.at.path).toBe(asked);
  });
});

describe("a trace", () => {
  let image: LabImage;
  let pieces: string[];
  let failures: NydusError[];

  /** A trace of the lab's image; `append` takes the place of the file's. */
  function open(append = async (text: string): Promise<void> => void pieces.push(text)): {
    readonly trace: AccessTrace;
    readonly note: (slot: number, start: number, end: number, nid?: number) => void;
    readonly reader: ErofsReader;
  } {
    [pieces, failures] = [[], []];
    image = makeLabImage(join(dir, "traced"), { blobs: 2, filesPerBlob: 3, fileBytes: 150_000 });
    const devices = image.openDevices();
    const bootstrap = mapFile(image.bootstrapPath);
    const file = { append, clear: async () => void pieces.splice(0) } satisfies Partial<AccessTraceOptions["file"]>;
    const source = { bootstrap, devices, blobs: ["aa", "bb"] };
    const trace = new AccessTrace({ file, source, onError: (error) => failures.push(error) });
    const tables = devices.map(({ chunks }) => chunkTableOf(chunks));
    const note = (slot: number, start: number, end: number, nid?: number): void => {
      noteAccess({ trace: trace.memory, slot, chunks: tables[slot - 1] as ChunkTable }, { start, end }, nid);
    };
    return { trace, note, reader: new ErofsReader(bootstrap.bytes) };
  }

  function lines(): TraceLine[] {
    return pieces
      .join("")
      .split("\n")
      .flatMap((line) => (line === "" ? [] : [JSON.parse(line) as TraceLine]));
  }

  const STEP = 3 * LAB_CHUNK_BYTES;

  test("has a line for each run of chunks, in order, with path, blob, whole chunks and time", async () => {
    const { trace, note } = open();
    trace.start();
    note(2, STEP + 5, STEP + 6);
    note(1, 2 * STEP, 2 * STEP + 150_000);
    note(2, STEP, STEP + 1); // again
    await trace.flush();
    expect(lines().map(({ time, ...rest }) => rest)).toEqual([
      { path: "/b1f1", blob: "sha256:bb", offset: STEP, size: LAB_CHUNK_BYTES, cause: "demand" },
      { path: "/b0f2", blob: "sha256:aa", offset: 2 * STEP, size: 150_000, cause: "demand" },
    ]);
    note(1, 0, 1);
    await trace[Symbol.asyncDispose]();
    expect(lines().at(-1)).toMatchObject({ path: "/b0f0", offset: 0 });
    const times = lines().map(({ time }) => time);
    expect(times.every((time) => time >= 0 && time < 60_000)).toBe(true);
    expect([...times].sort((a, b) => a - b)).toEqual(times);
  });

  test("has the path that the reader named, else a line for each file whose chunks are read", async () => {
    const { trace, note, reader } = open();
    trace.start();
    const nid = reader.lookup(reader.rootNid, Buffer.from("b0f2"))?.nid;
    note(1, 0, LAB_CHUNK_BYTES, nid);
    note(1, 0, 2 * STEP);
    await trace[Symbol.asyncDispose]();
    expect(lines().map(({ path, offset, size }) => [path, offset, size])).toEqual([
      ["/b0f2", 0, LAB_CHUNK_BYTES],
      ["/b0f0", LAB_CHUNK_BYTES, 150_000 - LAB_CHUNK_BYTES],
      ["/b0f1", STEP, 150_000],
    ]);
  });

  test("writes nothing when the mount was never made", async () => {
    const { trace, note } = open();
    note(1, 0, 1);
    await trace[Symbol.asyncDispose]();
    expect(pieces).toEqual([]);
  });

  test("ends with one error when its file cannot be written, and keeps no reader", async () => {
    let tries = 0;
    const { trace, note } = open(async () => {
      tries++;
      throw new NydusError("ENOSPC", "Cannot write trace: full");
    });
    trace.start();
    note(1, 0, 1);
    await trace.flush();
    note(2, 0, 1);
    await trace.flush();
    await trace[Symbol.asyncDispose]();
    expect([tries, failures.map(({ code }) => code)]).toEqual([1, ["ENOSPC"]]);
  });

  test("writes by itself, without being told", async () => {
    const { trace, note } = open();
    trace.start();
    note(1, 0, 1);
    for (let waited = 0; pieces.length === 0 && waited < 10_000; waited += 20) await Bun.sleep(20);
    expect(lines().length).toBe(1);
    await trace[Symbol.asyncDispose]();
  });
});
