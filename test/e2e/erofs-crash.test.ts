import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, mkdirSync, mkdtempSync, openSync, read, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { findMount } from "../../src/os/mount.ts";
import { canMountErofs, isAlive } from "../kit/erofs-lab.ts";
import { killProcessesOf, processesOf, unmountBelow } from "../kit/leftovers.ts";
import { isBuilt, nydusOk } from "../kit/program.ts";
import { makeSyntheticImage, type SyntheticImage } from "../kit/synthetic-image.ts";

setDefaultTimeout(60_000);
const canMount = canMountErofs() && isBuilt;
const FILES = 200;

let dir: string;
let root: string;
let mountpoint: string;
let image: SyntheticImage;

beforeAll(() => {
  if (!canMount) return;
  dir = mkdtempSync(join(tmpdir(), "nydus-crash-"));
  root = join(dir, "state");
  mountpoint = join(dir, "mnt");
  mkdirSync(mountpoint);
  image = makeSyntheticImage(dir, { files: FILES, seed: 8, fileBytes: 30_000 });
});

afterEach(async () => {
  if (!canMount) return;
  await unmountBelow(dir);
  await nydusOk("--root", root, "daemon", "stop").catch(() => undefined);
  await killProcessesOf(dir);
});

afterAll(() => {
  if (canMount) rmSync(dir, { recursive: true, force: true });
});

async function mount(): Promise<number> {
  const { bootstrapPath, blobDir } = image;
  const args = ["--engine", "erofs", "--read-timeout", "5s", "--prefetch", "none"];
  await nydusOk("--root", root, "mount", ...args, "--bootstrap", bootstrapPath, "--blob-dir", blobDir, mountpoint);
  const status = JSON.parse(await nydusOk("--root", root, "daemon", "status", "--json")) as { pid: number };
  return status.pid;
}

/** The guard process of a daemon. */
function guardOf(daemon: number): number {
  const found = readdirSync("/proc").find((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "latin1");
      const isChild = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === daemon;
      return isChild && readFileSync(`/proc/${name}/environ`, "latin1").includes("NYDUS_PROCESS_ROLE=holder");
    } catch {
      return false; // gone
    }
  });
  if (found === undefined) throw new Error("no guard");
  return Number(found);
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !condition(); waited += 20) {
    if (waited > 15_000) throw new Error(`it does not come: ${what}`);
    await Bun.sleep(20);
  }
}

/** Reads by the thread pool, which may wait. */
async function readByte(fd: number, position: number): Promise<string> {
  try {
    const { bytesRead } = await promisify(read)(fd, Buffer.alloc(1), 0, 1, position);
    return `${bytesRead}`;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

function wrongFiles(): string[] {
  return Array.from({ length: FILES }, (_, file) => image.pathOf(file)).filter((path, file) => {
    return Buffer.compare(readFileSync(join(mountpoint, path)), image.contentOf(file)) !== 0;
  });
}

describe.skipIf(!canMount)("kill -9 of a daemon that mounts by EROFS", () => {
  test("leaves no mount; who has files open gets EIO; the next daemon works beside the guard, which goes with them", async () => {
    const daemon = await mount();
    const guard = guardOf(daemon);
    const held = openSync(join(mountpoint, image.pathOf(FILES - 1)), "r");
    try {
      process.kill(daemon, "SIGKILL");
      await until(() => findMount(mountpoint) === undefined, "no mount");
      expect(await readByte(held, 100)).toBe("EIO");
      const next = await mount();
      expect(next).not.toBe(daemon);
      expect(isAlive(guard)).toBe(true);
      expect(wrongFiles()).toEqual([]);
      expect(await readByte(held, 20_000)).toBe("EIO");
    } finally {
      closeSync(held);
    }
    await until(() => !isAlive(guard), "the end of the guard");
    expect(wrongFiles()).toEqual([]);
    await nydusOk("--root", root, "umount", mountpoint);
  });

  test("loses no cache: once nobody has the dead mount open, the next daemon goes on with it", async () => {
    const daemon = await mount();
    expect(wrongFiles()).toEqual([]);
    await Bun.sleep(3_000); // until it is durable
    const guard = guardOf(daemon);
    process.kill(daemon, "SIGKILL");
    await until(() => !isAlive(guard) && !isAlive(daemon), "the end of both");
    await mount();
    expect(wrongFiles()).toEqual([]);
    const report = JSON.parse(await nydusOk("--root", root, "cache", "ls", "--json")) as unknown;
    expect(JSON.stringify(report)).toContain(`"filledChunks":${FILES}`);
    expect(readdirSync(join(root, "cache")).filter((name) => /\.\d+\.[0-9a-f]+\.data$/.test(name))).toEqual([]);
    await nydusOk("--root", root, "umount", mountpoint);
  });

  test("a daemon that is stopped takes its guard along", async () => {
    const guard = guardOf(await mount());
    await nydusOk("--root", root, "umount", mountpoint);
    await nydusOk("--root", root, "daemon", "stop");
    await until(() => !isAlive(guard), "the end of the guard");
    expect(processesOf(dir)).toEqual([]);
  });
});
