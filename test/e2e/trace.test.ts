import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { findMount } from "../../src/os/mount.ts";
import { DaemonHome } from "../kit/daemon.ts";
import { canMountErofs } from "../kit/erofs-lab.ts";
import { isBuilt } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";
import type { SyntheticImage } from "../kit/synthetic-image.ts";

setDefaultTimeout(60_000);
const canFuse = isBuilt && process.getuid?.() === 0 && existsSync("/dev/fuse");
const ENGINES = canFuse && canMountErofs() ? ["fuse", "erofs"] : ["fuse"];
const FILE_BYTES = 5000;
/** Each file begins at a block of the device. */
const STEP = 8192;
/** More than the time between two looks for files that need no mark any more. */
const UNMARK_MS = 1_500;

interface Line {
  readonly path: string;
  readonly blob: string;
  readonly offset: number;
  readonly size: number;
  readonly time: number;
  readonly cause: string;
}

let home: DaemonHome;
let image: SyntheticImage;
let mountpoint: string;
let traceFile: string;

beforeEach(() => {
  home = new DaemonHome();
  image = home.image("image", { files: 2500, seed: 4, fileBytes: FILE_BYTES });
  mountpoint = home.mountpoint("a");
  traceFile = join(home.dir, "trace.jsonl");
});
afterEach(async () => {
  await home[Symbol.asyncDispose]();
});

async function mount(...flags: string[]): Promise<void> {
  await home.mount(image, mountpoint, ...flags);
}

/** Ends the mount and what it traced. @param others mounts that are left */
async function endMount(others = 0): Promise<void> {
  await home.ok("umount", mountpoint);
  for (let waited = 0; readdirSync(join(home.root, "mounts")).length > others && waited < 10_000; waited += 20) {
    await Bun.sleep(20);
  }
}

async function readFiles(files: readonly number[]): Promise<void> {
  for (const file of files) {
    const { stdout, status } = await run("sha256sum", join(mountpoint, image.pathOf(file)));
    const wanted = new Bun.SHA256().update(image.contentOf(file)).digest("hex");
    expect([status, stdout.slice(0, 64)]).toEqual([0, wanted]);
  }
}

function linesOf(path = traceFile): Line[] {
  const text = readFileSync(path, "utf8");
  expect(text === "" || text.endsWith("\n")).toBe(true);
  return text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Line]));
}

/** What a trace is to have of files. */
function wanted(files: readonly number[]): Omit<Line, "time">[] {
  const [id] = readdirSync(image.blobDir);
  return files.map((file) => {
    const place = { blob: `sha256:${id}`, offset: file * STEP, size: FILE_BYTES };
    return { path: `/${image.pathOf(file)}`, ...place, cause: "demand" };
  });
}

function withoutTimes(lines: readonly Line[]): Omit<Line, "time">[] {
  const times = lines.map(({ time }) => time);
  expect(times.every((time) => time >= 0 && time < 60_000)).toBe(true);
  expect([...times].sort((a, b) => a - b)).toEqual(times);
  return lines.map(({ time, ...rest }) => rest);
}

async function metrics(): Promise<(name: string, labels?: string) => number> {
  const text = await (await fetch("http://daemon/metrics", { unix: home.socket })).text();
  const lines = text.split("\n");
  return (name, labels = "") => {
    const found = lines.find(
      (line) => line.startsWith(name) && /^[{ ]/.test(line.slice(name.length)) && line.includes(labels),
    );
    return Number(found?.split(" ").at(-1));
  };
}

describe.skipIf(!canFuse).each(ENGINES)("nydus mount --engine %s --trace", (engine) => {
  test("lists files in the order in which they are read first, where they lie in the blob", async () => {
    await mount("--engine", engine, "--trace", relative(process.cwd(), traceFile));
    const order = [2001, 7, 1500, 8, 2499, 0];
    await readFiles([...order, 7, 2001]);
    await shell(`ls -lR ${mountpoint} > /dev/null`);
    await endMount();
    expect(withoutTimes(linesOf())).toEqual(wanted(order));
  });

  test("lists what is there already, and goes on when all is there", async () => {
    await mount("--engine", engine);
    await shell(`find ${mountpoint} -type f -exec cat {} + > /dev/null`);
    await endMount();
    await mount("--engine", engine, "--trace", traceFile);
    await Bun.sleep(UNMARK_MS);
    await readFiles([3, 1, 2]);
    const count = await metrics();
    expect(count("nydus_mount_fetches_total")).toBe(0);
    expect(count("nydus_mount_reads_total", 'cache="hit"')).toBeGreaterThanOrEqual(3);
    await endMount();
    expect(withoutTimes(linesOf())).toEqual(wanted([3, 1, 2]));
  });

  test("writes while the mount is used, also served in the foreground, to a path as the shell has it", async () => {
    writeFileSync(traceFile, "what an earlier trace left\n".repeat(100));
    const flags = `mount --foreground --engine ${engine} --trace ./trace.jsonl`;
    const places = `--bootstrap ${image.bootstrapPath} --blob-dir ${image.blobDir} ${mountpoint}`;
    const command = ["sh", "-c", `cd ${home.dir} && exec ${home.command().join(" ")} ${flags} ${places}`];
    const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    try {
      for (let waited = 0; findMount(mountpoint) === undefined && waited < 20_000; waited += 20) await Bun.sleep(20);
      await readFiles([12, 11]);
      const read = (): string => readFileSync(traceFile, "utf8");
      for (let waited = 0; !read().includes("f11") && waited < 10_000; waited += 20) await Bun.sleep(20);
      expect(withoutTimes(linesOf())).toEqual(wanted([12, 11]));
      await readFiles([10]);
    } finally {
      child.kill("SIGTERM");
    }
    expect([await child.exited, withoutTimes(linesOf())]).toEqual([0, wanted([12, 11, 10])]);
  });

  test("fails the mount when the file cannot be opened, and the trace alone when it cannot be written", async () => {
    const places = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, mountpoint];
    const refused = await home.nydus("mount", "--engine", engine, "--trace", join(home.dir, "no", "file"), ...places);
    expect([refused.status, refused.stderr]).toEqual([3, expect.stringContaining("Cannot write trace: ")]);
    expect(findMount(mountpoint)).toBeUndefined();
    expect(readdirSync(join(home.root, "mounts"))).toEqual([]);

    const disk = home.mountpoint("disk");
    await shell(`mount -t tmpfs -o size=8k,nr_inodes=8 tmpfs ${disk}`);
    await mount("--engine", engine, "--trace", join(disk, "trace"));
    await readFiles(Array.from({ length: 100 }, (_, i) => 20 * i));
    const stopped = async (): Promise<number> => {
      const log = await home.ok("daemon", "logs");
      return log.split("\n").filter((line) => line.includes("Cannot write trace: ")).length - 1; // that of above
    };
    for (let waited = 0; (await stopped()) === 0 && waited < 10_000; waited += 100) await Bun.sleep(100);
    await readFiles([2100, 2300]);
    await endMount();
    expect(await stopped()).toBe(1);
  });

  test("two mounts do not trace to one file", async () => {
    await mount("--engine", engine, "--trace", traceFile);
    const other = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, home.mountpoint("b")];
    const { status, stderr } = await home.nydus("mount", "--engine", engine, "--trace", traceFile, ...other);
    expect([status, stderr]).toEqual([11, expect.stringContaining("another mount writes there")]);
  });
});

test.skipIf(!ENGINES.includes("erofs"))("a trace by erofs sees what another mount of the same blob reads", async () => {
  const other = home.mountpoint("b");
  await mount("--engine", "erofs", "--trace", traceFile);
  await home.mount(image, other, "--engine", "erofs");
  await shell(`cat ${join(other, image.pathOf(5))} > /dev/null`);
  await readFiles([5, 6]); // the first is accessed already
  await endMount(1);
  expect(withoutTimes(linesOf())).toEqual(wanted([5, 6]));
  await shell(`cat ${join(other, image.pathOf(7))} > /dev/null`);
  expect(linesOf().length).toBe(2);
});

describe.skipIf(!canFuse).each(ENGINES)("metrics of a mount by %s", (engine) => {
  test("count a cold read as a miss and a fetch, and a warm one as a hit", async () => {
    await mount("--engine", engine);
    await readFiles([100]);
    const labels = `mountpoint="${mountpoint}",image="${image.bootstrapPath}"`;
    let cold = await metrics();
    const aheadOf = (): number => cold("nydus_mount_fetched_bytes_total", `${labels},cause="ahead"`);
    // The reader has its bytes before what comes along, and what is read ahead, is decoded.
    const isSettled = (): boolean =>
      aheadOf() > 0 && cold("nydus_mount_decoded_bytes_total", labels) === FILE_BYTES + aheadOf();
    for (let i = 0; !isSettled() && i < 500; i++) {
      await Bun.sleep(20);
      cold = await metrics();
    }
    const aheadBytes = aheadOf();
    const decoded = FILE_BYTES + aheadBytes;
    const fetches = cold("nydus_mount_fetches_total", labels);
    expect(cold("nydus_mount_reads_total", `${labels},cache="miss"`)).toBe(1);
    expect(cold("nydus_mount_reads_total", `${labels},cache="hit"`)).toBe(0);
    expect(fetches).toBeGreaterThan(0);
    expect(cold("nydus_mount_fetched_bytes_total", `${labels},cause="demand"`)).toBe(FILE_BYTES);
    expect(aheadBytes).toBeGreaterThan(0);
    expect(cold("nydus_mount_decoded_bytes_total", labels)).toBe(decoded);
    expect(cold("nydus_mount_read_wait_seconds_count", labels)).toBe(1);
    expect(cold("nydus_mount_waiting_reads", labels)).toBe(0);
    await readFiles([101]);
    const warm = await metrics();
    expect(warm("nydus_mount_reads_total", `${labels},cache="miss"`)).toBe(1);
    expect(warm("nydus_mount_reads_total", `${labels},cache="hit"`)).toBe(1);
    expect(warm("nydus_mount_fetches_total", labels)).toBe(fetches);
    const [id] = readdirSync(image.blobDir);
    expect(warm("nydus_blob_decoded_bytes_total", `blob="${id}"`)).toBe(decoded);
    expect(warm("nydus_decode_seconds_count")).toBeGreaterThan(0);
    const [listed] = JSON.parse(await home.ok("mounts", "--json")) as Record<string, Record<string, unknown>>[];
    expect(listed).toMatchObject({
      stats: { readyReads: 1, waitingReads: 1, errors: 0 },
      fetched: { requests: fetches, demandBytes: FILE_BYTES, aheadBytes, decodedBytes: decoded },
    });
  });

  test("count a blob that is not what its digest says as just that", async () => {
    const [id] = readdirSync(image.blobDir);
    const path = join(image.blobDir, id as string);
    const bytes = readFileSync(path);
    bytes[100 * FILE_BYTES] = (bytes[100 * FILE_BYTES] as number) ^ 1;
    writeFileSync(path, bytes);
    await mount("--engine", engine);
    const { status, stderr } = await run("cat", join(mountpoint, image.pathOf(100)));
    expect([status, stderr]).toEqual([1, expect.stringContaining("Input/output error")]);
    const count = await metrics();
    expect(count("nydus_mount_errors_total", 'kind="digest"')).toBeGreaterThan(0);
    expect(count("nydus_mount_errors_total", 'kind="fetch"')).toBe(0);
    expect(count("nydus_mount_chunk_errors_total", 'kind="digest"')).toBeGreaterThan(0);
    expect(count("nydus_blob_chunk_errors_total", 'kind="digest"')).toBeGreaterThan(0);
    await readFiles([101]);
  });
});
