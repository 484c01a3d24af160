import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { decodeToc } from "../../src/format/rafs/blob-toc.ts";
import { smallGolden } from "../kit/golden.ts";
import { goldenLayers } from "../kit/golden-layers.ts";
import { isBuilt, nydusOk, PROGRAM } from "../kit/program.ts";
import { type CommandResult, run, shell } from "../kit/shell.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../kit/tree.ts";

const canMount = process.getuid?.() === 0 && existsSync("/dev/fuse");
const PEER = join(PROGRAM, "..", "peers", "bin", "nydus-image");
const SECONDS = 60_000;

let dir: string;
let tars: string[];
let builder: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-image-"));
  builder = join(dir, "nydus-image");
  symlinkSync(PROGRAM, builder);
  tars = goldenLayers(smallGolden(), "oci").map((tar, i) => {
    const path = join(dir, `layer${i}.tar`);
    writeFileSync(path, tar);
    return path;
  });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let work: string;
beforeEach(() => {
  work = mkdtempSync(join(dir, "work-"));
});
afterEach(() => rmSync(work, { recursive: true, force: true }));

const nydusImage = (...args: string[]): Promise<CommandResult> => run(builder, ...args);
const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

async function ok(result: Promise<CommandResult>): Promise<string> {
  const { stdout, stderr, status } = await result;
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

/** What nydus-snapshotter's converter asks for, word by word. */
function packArgs(blob: string, source: string, ...more: string[]): string[] {
  const head = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", blob, "--whiteout-spec", "none"];
  const type = ["--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta", "--features", "blob-toc"];
  return [...head, ...type, ...more, source];
}

/** Builds a layer as the converter does: from a pipe into a pipe. Gives the blob's path, which is named by its digest. */
async function pack(program: string, tar: string, ...more: string[]): Promise<string> {
  const [source, blob, made] = ["in", "out", "made"].map((name) => join(work, name)) as [string, string, string];
  await shell(`mkfifo '${source}' '${blob}'`);
  const reader = run("bash", "-c", `cat '${blob}' > '${made}'`);
  const writer = run("bash", "-c", `cat '${tar}' > '${source}'`);
  await ok(run(program, ...packArgs(blob, source, ...more)));
  await Promise.all([reader, writer]);
  const blobs = join(work, "blobs");
  mkdirSync(blobs, { recursive: true });
  const path = join(blobs, sha256(made));
  copyFileSync(made, path);
  for (const name of [source, blob, made]) rmSync(name);
  return path;
}

/** The bootstrap in a blob, as the converter takes it out: in a file of the blob's name. */
async function bootstrapOf(blob: string): Promise<string> {
  const bytes = readFileSync(blob);
  const entry = decodeToc(new Uint8Array(bytes.subarray(-4096)), bytes.length)?.entries.find(
    ({ name }) => name === "image.boot",
  );
  if (entry === undefined) throw new Error("no bootstrap in the blob");
  const stored = bytes.subarray(entry.offset, entry.offset + entry.compressedBytes);
  const boots = join(work, "boots");
  mkdirSync(boots, { recursive: true });
  const path = join(boots, sha256(blob));
  writeFileSync(path, entry.compressor === "zstd" ? await Bun.zstdDecompress(stored) : stored);
  return path;
}

async function merge(program: string, bootstraps: readonly string[], ...more: string[]): Promise<string> {
  const [json, target] = [join(work, "merge-output.json"), join(work, "bootstrap")];
  const head = [
    "merge",
    "--log-level",
    "warn",
    "--prefetch-policy",
    "fs",
    "--output-json",
    json,
    "--bootstrap",
    target,
  ];
  const child = Bun.spawn([program, ...head, ...bootstraps, ...more], { stdin: Buffer.from("/"), stderr: "pipe" });
  const stderr = await new Response(child.stderr).text();
  expect({ status: await child.exited, stderr }).toEqual({ status: 0, stderr: "" });
  return target;
}

const blobsOf = (json: string): string[] =>
  (JSON.parse(readFileSync(join(work, json), "utf8")) as { blobs: string[] }).blobs;

/** Differences of a mount from the golden tree; no layer sets the root directory's time. */
async function differences(
  bootstrap: string,
  lost: (field: keyof TreeEntry, entry: TreeEntry) => boolean = () => false,
): Promise<string[]> {
  const [mountpoint, state] = [join(work, "mnt"), join(work, "state")];
  mkdirSync(mountpoint);
  const image = ["--bootstrap", bootstrap, "--blob-dir", join(work, "blobs")];
  await nydusOk("--root", state, "mount", ...image, mountpoint);
  try {
    const tree = await treeOf(mountpoint);
    const ignore = (field: keyof TreeEntry, entry: TreeEntry): boolean =>
      (field === "mtime" && entry.path === "/") || lost(field, entry);
    return diffTrees(readTree(join(smallGolden(), "tree.jsonl")), tree, { ignore });
  } finally {
    await nydusOk("--root", state, "umount", mountpoint);
    await nydusOk("--root", state, "daemon", "stop");
  }
}

/** What GNU tar makes of a layer, its whiteouts as files. */
async function extracted(tar: string): Promise<TreeEntry[]> {
  const target = join(work, "extracted");
  mkdirSync(target);
  await shell(
    `tar --numeric-owner --delay-directory-restore --xattrs --xattrs-include='*' -xpf '${tar}' -C '${target}'`,
  );
  const tree = await treeOf(target);
  rmSync(target, { recursive: true });
  return tree.map((entry) => (entry.path === "/" ? { ...entry, mtime: "", mode: "" } : entry)); // the root has no entry
}

describe.skipIf(!isBuilt)("nydus-image", () => {
  test("says its version as callers read it, and what it can do", async () => {
    expect(await ok(nydusImage("--version"))).toMatch(/^Version: \t\s*(v.*)$/m);
    const help = await ok(nydusImage("create", "-h"));
    expect(help).toContain("--type");
    expect(help).toContain("tar-rafs");
    expect(await ok(nydusImage("help", "merge"))).toContain("--blob-toc-digests");
    expect(await ok(nydusImage())).toContain("Usage: ");
  });

  test.each([
    [["frob"], 2, "error: unrecognized subcommand 'frob'"],
    [["create"], 2, "error: the following required arguments"],
    [["create", "--type", "frob", "x"], 2, "error: invalid value 'frob' for '--type <type>'"],
    [["-l", "frob", "check", "x"], 2, "error: invalid value 'frob'"],
    [["unpack", "x"], 2, "--output <output>"],
    [["merge", "x"], 1, "Error: Cannot write bootstrap: both --bootstrap and --blob-dir are missing"],
    [["check", "/proc/none"], 1, "Error: ENOENT"],
    [["create", "--blob-inline-meta", "-b", "x", "/proc/none"], 1, "Error: ENOENT"],
    [["create", "--blob-inline-meta", "-b", "x", "-E", "/"], 1, "Error: Cannot build: encryption is not supported"],
    [["create", "--type", "tar-tarfs", "-B", "x", "/"], 1, "Error: Cannot build: conversion type tar-tarfs"],
    [["create", "--fs-version", "5", "-B", "x", "/"], 1, "Error: Cannot build: RAFS version 5 is not supported"],
    [["create", "--batch-size", "0x1000", "-B", "x", "/"], 1, "Error: Cannot build: batches of chunks"],
    [["create", "--chunk-size", "3", "-B", "x", "-b", "y", "/"], 1, "Error: Cannot build: invalid chunk size"],
    [["optimize"], 1, "Error: Cannot run optimize"],
  ])("ends %j with status %i", async (args, status, message) => {
    const result = await nydusImage(...args);
    expect({ status: result.status, stdout: result.stdout }).toEqual({ status, stdout: "" });
    expect(result.stderr).toContain(message);
  });

  test.skipIf(!canMount).each([
    ["zstd", "0x100000"],
    ["lz4_block", "0x10000"],
    ["none", "4096"],
  ])(
    "makes layers on pipes that merge to the image, %s, chunks of %s",
    async (compressor, chunkSize) => {
      const blobs: string[] = [];
      for (const tar of tars) {
        blobs.push(await pack(builder, tar, "--compressor", compressor, "--chunk-size", chunkSize));
      }
      const bootstraps = await Promise.all(blobs.map(bootstrapOf));
      const bootstrap = await merge(builder, bootstraps);
      expect(await differences(bootstrap)).toEqual([]);
      expect(blobsOf("merge-output.json")).toEqual(blobs.map(sha256));
      if (existsSync(PEER)) expect((await run(PEER, "check", "-B", bootstrap)).status).toBe(0);
    },
    SECONDS,
  );

  test(
    "gives the same bytes from a file and a pipe, gzipped or not, and in any directory",
    async () => {
      const [tar] = tars as [string];
      const blob = readFileSync(await pack(builder, tar));
      const gzipped = join(work, "layer.tar.gz");
      writeFileSync(gzipped, gzipSync(readFileSync(tar)));
      const inline = ["--blob-inline-meta", "-b", "made"];
      for (const [type, source] of [
        ["tar-rafs", tar],
        ["targz-rafs", gzipped],
        ["estargz-rafs", gzipped],
      ]) {
        const script = `umask 077; cd '${work}'; TZ=Asia/Tokyo exec "$0" create --type ${type} ${inline.join(" ")} '${source}'`;
        await ok(run("bash", "-c", script, builder));
        expect(readFileSync(join(work, "made")).equals(blob)).toBe(true);
      }
    },
    SECONDS,
  );

  test.skipIf(!canMount)(
    "makes a whole image of layers on their parents, and of a directory",
    async () => {
      const blobDir = join(work, "blobs");
      mkdirSync(blobDir);
      let parent: string[] = [];
      for (const [i, tar] of tars.entries()) {
        const target = join(work, `boot${i}`);
        const where = ["-B", target, "-D", blobDir, "-J", join(work, "j")];
        await ok(nydusImage("create", "--type", "tar-rafs", ...where, ...parent, tar));
        parent = ["--parent-bootstrap", target];
      }
      expect(blobsOf("j").sort()).toEqual(readdirSync(blobDir).sort());
      const [, whole] = parent as [string, string];
      expect(await differences(whole)).toEqual([]);
      const tree = join(work, "tree");
      await nydusOk("unpack", "--bootstrap", whole, "--blob-dir", blobDir, tree);
      await ok(nydusImage("create", "-t", "directory", "-B", join(work, "again"), "-D", blobDir, tree));
      rmSync(join(work, "mnt"), { recursive: true });
      expect(await differences(join(work, "again"))).toEqual([]);
    },
    SECONDS,
  );

  test.skipIf(!canMount)(
    "gives layers back as tars: from a blob, from a directory of blobs, and from a proxy at a socket",
    async () => {
      for (const tar of tars) {
        const blob = await pack(builder, tar);
        const bootstrap = await bootstrapOf(blob);
        const [fifo, made, socket] = ["fifo", "tar", "s"].map((name) => join(work, name)) as [string, string, string];
        await shell(`mkfifo '${fifo}'`);
        const reader = run("bash", "-c", `cat '${fifo}' > '${made}'`);
        await ok(
          nydusImage("unpack", "--log-level", "warn", "--bootstrap", bootstrap, "--output", fifo, "--blob", blob),
        );
        await reader;
        expect(diffTrees(await extracted(tar), await extracted(made))).toEqual([]);
        const server = createServer((request, response) => {
          const bytes = readFileSync(blob);
          const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
          if (request.method === "HEAD") response.setHeader("Content-Length", bytes.length).end();
          else response.end(bytes.subarray(Number(start), Number(end) + 1));
        });
        await new Promise<void>((resolve) => server.listen(socket, resolve));
        const config = JSON.stringify({ addr: socket });
        const proxy = ["--backend-type", "http-proxy", "--backend-config", config];
        await ok(nydusImage("unpack", "-B", bootstrap, "--output", join(work, "p"), ...proxy));
        server.close();
        expect(sha256(join(work, "p"))).toBe(sha256(made));
        for (const name of [fifo, made, socket, join(work, "p")]) rmSync(name, { force: true });
      }
    },
    SECONDS,
  );

  test(
    "checks, inspects and counts with JSON that callers read",
    async () => {
      const blobs: string[] = [];
      for (const tar of tars) blobs.push(await pack(builder, tar));
      const bootstrap = await merge(builder, blobs);
      const ids = blobs.map(sha256);
      const json = join(work, "check.json");
      const text = await ok(
        nydusImage("check", "--log-level", "warn", "--output-json", json, "--bootstrap", bootstrap),
      );
      expect(text).toStartWith("RAFS filesystem metadata is valid, referenced data blobs: \n\t 0: ");
      expect(JSON.parse(readFileSync(json, "utf8"))).toMatchObject({ bootstrap, blobs: ids, fs_version: "6" });
      for (const request of [["--request", "blobs"], ["-R blobs"]]) {
        const listed = JSON.parse(await ok(nydusImage("inspect", ...request, bootstrap))) as { blob_id: string }[];
        expect(listed.map((blob) => blob.blob_id)).toEqual(ids);
      }
      const [prefetched] = JSON.parse(await ok(nydusImage("inspect", bootstrap, "-R", "prefetch"))) as object[];
      expect(prefetched).toMatchObject({ path: ["/"] });
      const damaged = readFileSync(bootstrap);
      damaged.fill(0xff, 8192, 12_000);
      writeFileSync(bootstrap, damaged);
      expect(await nydusImage("check", bootstrap)).toMatchObject({ status: 1, stdout: "" });
    },
    SECONDS,
  );
});

describe.skipIf(!isBuilt)("nydus-image on pipes that break", () => {
  setDefaultTimeout(SECONDS);
  const pipes = async (): Promise<[string, string]> => {
    const names = [join(work, "in"), join(work, "out")] as [string, string];
    await shell(`mkfifo '${names[0]}' '${names[1]}'`);
    return names;
  };

  test("fails when the reader leaves", async () => {
    const [, blob] = await pipes();
    const reader = run("head", "-c", "100", blob);
    const { status, stderr } = await nydusImage(...packArgs(blob, tars[0] as string));
    expect([status, stderr]).toEqual([1, expect.stringContaining("EPIPE")]);
    await reader;
  });

  test("fails when the tar ends early", async () => {
    const [source, blob] = await pipes();
    const reader = run("cat", blob);
    const writer = run("bash", "-c", `head -c 100000 '${tars[0]}' > '${source}'`);
    const { status, stderr } = await nydusImage(...packArgs(blob, source));
    expect([status, stderr]).toEqual([1, expect.stringContaining("Cannot read tar: it ends")]);
    await Promise.all([reader, writer]);
  });

  test("lets those who wait at its pipes go when it refuses to build", async () => {
    const [source, blob] = await pipes();
    const [reader, writer] = [run("cat", blob), run("bash", "-c", `cat '${tars[0]}' > '${source}'`)];
    await Bun.sleep(200); // both are waiting for the other end now
    expect((await nydusImage(...packArgs(blob, source, "--encrypt"))).status).toBe(1);
    await Promise.all([reader, writer]);
  });

  test("ends on a signal while it waits for the other ends", async () => {
    const [source, blob] = await pipes();
    const child = Bun.spawn([builder, ...packArgs(blob, source)], { stdin: "ignore", stderr: "ignore" });
    await Bun.sleep(500);
    child.kill("SIGTERM");
    expect([130, 143]).toContain(await child.exited); // the second if it had not yet come to listen to signals
  });

  test("leaves no file behind where the blob is one", async () => {
    const target = join(work, "blob");
    const truncated = join(work, "truncated.tar");
    writeFileSync(truncated, readFileSync(tars[0] as string).subarray(0, 100_000));
    expect((await nydusImage(...packArgs(target, truncated))).status).toBe(1);
    expect(readdirSync(work)).toEqual(["truncated.tar"]);
  });
});

describe.skipIf(!isBuilt || !existsSync(PEER))("nydus-image beside the real one", () => {
  test.skipIf(!canMount)(
    "merges layers of either into the image",
    async () => {
      const blobs: string[] = [];
      for (const [i, tar] of tars.entries()) blobs.push(await pack(i === 1 ? PEER : builder, tar));
      const bootstraps = await Promise.all(blobs.map(bootstrapOf));
      // The real one leaves nanoseconds and the time 0 out of the layer that it makes.
      const isLost = (field: keyof TreeEntry, { mtime }: TreeEntry): boolean =>
        field === "mtime" && (mtime === "0" || !mtime.endsWith("000000000"));
      expect(await differences(await merge(builder, bootstraps), isLost)).toEqual([]);
    },
    SECONDS,
  );

  test(
    "has its layers merged by the real one, with a dictionary too",
    async () => {
      const blobs: string[] = [];
      for (const tar of tars) blobs.push(await pack(builder, tar));
      const whole = await merge(PEER, await Promise.all(blobs.map(bootstrapOf)));
      expect(blobsOf("merge-output.json")).toEqual(blobs.map(sha256));
      const dict = join(work, "dict");
      copyFileSync(whole, dict);
      const again = await pack(builder, tars[0] as string, "--chunk-dict", `bootstrap=${dict}`);
      await merge(PEER, [await bootstrapOf(again)], "--chunk-dict", `bootstrap=${dict}`);
      expect(blobsOf("merge-output.json")).toContain(sha256(blobs[0] as string));
      expect(readFileSync(again).length).toBeLessThan(readFileSync(blobs[0] as string).length / 2);
    },
    SECONDS,
  );

  test(
    "counts as the real one does",
    async () => {
      const blobs: string[] = [];
      for (const tar of tars) blobs.push(await pack(builder, tar));
      const bootstrap = await merge(builder, blobs);
      await ok(nydusImage("stat", "-B", bootstrap, "-J", join(work, "ours")));
      await run(PEER, "stat", "-B", bootstrap, "-J", join(work, "theirs"));
      const [ours, theirs] = ["ours", "theirs"].map((name) => JSON.parse(readFileSync(join(work, name), "utf8")));
      expect(ours).toEqual(theirs);
    },
    SECONDS,
  );
});
