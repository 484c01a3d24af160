import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { MountHost } from "../../src/operation/mount/engine.ts";
import { openErofsHost } from "../../src/operation/mount/erofs/engine.ts";
import { mapFile } from "../../src/os/mmap.ts";
import { canMountErofs, type LabImage, makeLabImage } from "../kit/erofs-lab.ts";
import { run } from "../kit/shell.ts";

setDefaultTimeout(60_000);
const canMount = canMountErofs();
const PENDING = 3;
const UNLIMITED_QUEUE = 0x10;

let dir: string;
let image: LabImage;
let host: MountHost;

beforeAll(() => {
  if (!canMount) return;
  dir = mkdtempSync(join(tmpdir(), "nydus-queue-"));
  mkdirSync(join(dir, "mnt"));
  image = makeLabImage(dir, { blobs: 1, filesPerBlob: 30, fileBytes: 70_000, seed: 90 });
  host = openErofsHost({ pendingReads: PENDING });
});

afterAll(async () => {
  if (!canMount) return;
  await host[Symbol.asyncDispose]();
  await run("umount", "-l", join(dir, "mnt"));
  rmSync(dir, { recursive: true, force: true });
});

test.skipIf(!canMount)("more readers than places wait in the kernel's queue, and all get the right bytes", async () => {
  const devices = image.openDevices();
  const bootstrap = mapFile(image.bootstrapPath);
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  for (const device of devices) {
    device.before = () => gate;
  }
  const session = await host.mount({ mountpoint: join(dir, "mnt"), bootstrap, devices });
  try {
    const flags = readdirSync("/proc/self/fdinfo").flatMap((fd) => {
      try {
        return /^fanotify flags:([0-9a-f]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? [];
      } catch {
        return []; // the descriptor of the listing itself
      }
    });
    expect(flags.map((found) => Number.parseInt(found, 16) & UNLIMITED_QUEUE)).toEqual([UNLIMITED_QUEUE]);
    const readers = [...image.files].map(async ([name, bytes]) => {
      const { stdout } = await run("sha256sum", join(dir, "mnt", name));
      return stdout.slice(0, 64) === new Bun.SHA256().update(bytes).digest("hex") ? "same" : `${name}: ${stdout}`;
    });
    await Bun.sleep(1_500);
    expect(devices[0]?.asked.length).toBe(PENDING);
    open();
    expect(await Promise.all(readers)).toEqual(readers.map(() => "same"));
  } finally {
    open();
    await session[Symbol.asyncDispose]();
    bootstrap.close();
    for (const device of devices) device[Symbol.dispose]();
  }
});
