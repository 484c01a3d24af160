import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { DaemonClient } from "../../src/service/daemon/client.ts";
import { DaemonHome, descriptorsOf, memoryOf } from "../kit/daemon.ts";
import { canMountErofs } from "../kit/erofs-lab.ts";
import { isBuilt } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";
import type { SyntheticImage } from "../kit/synthetic-image.ts";

setDefaultTimeout(60_000);
const ENGINES = canMountErofs() ? (["fuse", "erofs"] as const) : (["fuse"] as const);
const canMount = isBuilt && process.getuid?.() === 0 && existsSync("/dev/fuse");
const CYCLES = 300;
const IMAGES = 7;
const FILES = 5;

let home: DaemonHome;
let client: DaemonClient;

beforeEach(async () => {
  home = new DaemonHome();
  client = home.client();
});
afterEach(async () => {
  await home[Symbol.asyncDispose]();
});

async function mount(image: SyntheticImage, mountpoint: string, engine: (typeof ENGINES)[number]): Promise<void> {
  const { bootstrapPath: bootstrap, blobDir } = image;
  const call = { shown: bootstrap, mountpoint, engine, readTimeoutMs: 30_000, options: "" } as const;
  await client.mount({ image: { bootstrap, blobDir }, ...call });
}

/** Files of a mount that are not the image's: none. */
function wrongFiles(image: SyntheticImage, mountpoint: string): string[] {
  const files = Array.from({ length: image.files }, (_, file) => file);
  return files
    .filter((file) => !readFileSync(join(mountpoint, image.pathOf(file))).equals(image.contentOf(file)))
    .map((file) => image.pathOf(file));
}

describe.skipIf(!canMount).each(ENGINES)("the daemon over many mounts by %s", (engine) => {
  test("shows each image its own bytes through 300 mounts and unmounts, and leaks nothing", async () => {
    const images = Array.from({ length: IMAGES }, (_, seed) =>
      home.image(`image${seed}`, { files: FILES, fileBytes: 9000, seed }),
    );
    const places = [0, 1, 2].map((n) => home.mountpoint(`${n}`));
    await home.mount(images[0] as SyntheticImage, home.mountpoint("keep"), "--engine", engine);
    const pid = await home.pid();
    const cycle = async (n: number): Promise<void> => {
      const image = images[n % IMAGES] as SyntheticImage;
      const place = places[n % places.length] as string;
      await mount(image, place, engine);
      expect(wrongFiles(image, place)).toEqual([]);
      await client.umount(place, false);
    };
    for (let n = 0; n < CYCLES / 3; n++) await cycle(n);
    const early = { descriptors: descriptorsOf(pid), rss: memoryOf(pid, "VmRSS") };
    for (let n = CYCLES / 3; n < CYCLES; n++) await cycle(n);
    expect(descriptorsOf(pid)).toEqual(early.descriptors);
    expect(memoryOf(pid, "VmRSS")).toBeLessThan(early.rss + 24 * 1024);
    expect(await client.status()).toMatchObject({ mounts: 1, images: 1 });
  });

  test("serves ten images, twenty readers at once, with 256 descriptors", async () => {
    const images = Array.from({ length: 10 }, (_, seed) =>
      home.image(`image${seed}`, { files: 40, fileBytes: 30_000, seed }),
    );
    const daemon = Bun.spawn(["bash", "-c", 'ulimit -n 256; exec "$0" "$@"', ...home.command("daemon", "run")]);
    while (!(await client.isServing())) await Bun.sleep(10);
    for (const [n, image] of images.entries()) await mount(image, home.mountpoint(`${n}`), engine);
    const sums = images.map((image) => {
      const hash = new Bun.CryptoHasher("sha256");
      for (let file = 0; file < image.files; file++) hash.update(image.contentOf(file));
      return hash.digest("hex");
    });
    const readers = [...images.keys(), ...images.keys()].map((n) =>
      shell(`cd ${home.mountpoint(`${n}`)}/d0 && cat $(ls | sort -V) | sha256sum`),
    );
    const read = (await Promise.all(readers)).map((line) => line.slice(0, 64));
    expect(read).toEqual([...sums, ...sums]);
    expect(descriptorsOf(daemon.pid).length).toBeLessThan(100);
    await client.stop();
    expect(await daemon.exited).toBe(0);
  });

  test("lists 200,000 files with less than 100 MiB of its own", async () => {
    const generate = [
      `import { makeSyntheticImage } from ${JSON.stringify(join(import.meta.dir, "..", "kit", "synthetic-image.ts"))};`,
      `makeSyntheticImage(${JSON.stringify(home.dir)}, { files: 200_000, fileBytes: 16, seed: 1 });`,
    ].join("\n");
    expect(await run(process.execPath, "-e", generate)).toMatchObject({ status: 0, stderr: "" });
    const image = { bootstrap: join(home.dir, "image.boot"), blobDir: join(home.dir, "blobs") };
    const at = home.mountpoint("a");
    await home.ok("mount", "--engine", engine, "--bootstrap", image.bootstrap, "--blob-dir", image.blobDir, at);
    const pid = await home.pid();
    expect(memoryOf(pid, "RssAnon")).toBeLessThan(100 * 1024);
    expect((await shell(`find ${at} -type f -printf '%s\\n' | sort | uniq -c`)).trim()).toBe("200000 16");
    expect(memoryOf(pid, "RssAnon")).toBeLessThan(100 * 1024);
    expect(await shell(`head -c 16 ${at}/d199/f199999`)).toBe("image 1 file 199");
  });
});
