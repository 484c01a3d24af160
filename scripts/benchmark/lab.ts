import { existsSync, linkSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Missing } from "./benchmark.ts";
import { type LayoutImage, readLayout } from "./layout.ts";
import { type Finished, findProgram, runCommand } from "./process.ts";

/** The Rust programs. */
export interface Peers {
  readonly nydusImage: string;
  readonly nydusd: string;
}

/** What every benchmark works with. */
export interface LabOptions {
  /** A directory of the benchmark's own, on a disk. */
  readonly dir: string;
  /** This program; nobody rebuilds it while it is measured. */
  readonly nydus: string;
  /** Undefined where they are not installed. */
  readonly peers: Peers | undefined;
  readonly image: LayoutImage;
  readonly signal: AbortSignal;
}

/** The image in RAFS form, as both programs mount it. */
export interface RafsImage {
  readonly bootstrap: string;
  readonly blobDir: string;
  readonly layout: LayoutImage;
}

const DROP_CACHES = "/proc/sys/vm/drop_caches";
const CHROOT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin";

/** The image and programs of a benchmark, and what it has opened: disposing releases all of it, the latest first. */
export class Lab implements AsyncDisposable {
  readonly options: LabOptions;
  readonly #owned = new AsyncDisposableStack();
  #scratches = 0;

  constructor(options: LabOptions) {
    this.options = options;
  }

  get image(): LayoutImage {
    return this.options.image;
  }

  get nydus(): string {
    return this.options.nydus;
  }

  /** @throws Missing */
  get peers(): Peers {
    if (this.options.peers === undefined) throw new Missing("nydus-image and nydusd are not installed");
    return this.options.peers;
  }

  /** Keeps something until the lab is disposed of. */
  own<T extends AsyncDisposable>(resource: T): T {
    return this.#owned.use(resource);
  }

  /** A new empty directory, removed with the lab. */
  scratch(): string {
    const path = join(this.options.dir, `${process.pid}-${performance.now().toFixed(3)}-${this.#scratches++}`);
    mkdirSync(path, { recursive: true });
    this.#owned.defer(() => rmSync(path, { recursive: true, force: true }));
    return path;
  }

  /** Runs a command to its end. */
  run(command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Finished> {
    return runCommand(command, { signal: this.options.signal, env });
  }

  /** Runs a command in a root of its own. */
  chroot(root: string, command: readonly string[]): Promise<Finished> {
    return this.run(["chroot", root, ...command], { PATH: CHROOT_PATH, LC_ALL: "C" });
  }

  /** Has everything written, so that the run to come does not pay for the one before. */
  async settle(): Promise<void> {
    await this.run(["sync"]);
  }

  /** Empties the page cache and the caches of names and inodes. @throws Missing where that is not allowed */
  async dropCaches(): Promise<void> {
    await this.settle();
    try {
      writeFileSync(DROP_CACHES, "3\n");
    } catch (error) {
      throw new Missing(`${DROP_CACHES} cannot be written: ${error}`);
    }
  }

  /** The image converted by this program: made by the first benchmark that asks. */
  async rafs(): Promise<RafsImage> {
    const dir = join(this.options.dir, "rafs");
    if (!existsSync(dir)) {
      const staging = this.scratch();
      await convertImage(this, staging);
      await this.run(["mv", "-T", staging, dir]);
    }
    const layout = readLayout(join(dir, "layout"), this.image.ref);
    return { bootstrap: join(dir, "image.boot"), blobDir: join(dir, "blobs"), layout };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#owned.disposeAsync();
  }
}

/** Converts the image into `layout`, and lays `image.boot` and `blobs` beside it. */
async function convertImage(lab: Lab, dir: string): Promise<void> {
  const layoutDir = join(dir, "layout");
  const { ref, name } = lab.image;
  await lab.run([lab.nydus, "--root", join(dir, "state"), "convert", "--quiet", name, `oci:${layoutDir}:${ref}`]);
  const layers = readLayout(layoutDir, ref).layers;
  const bootstrapLayer = layers.at(-1);
  if (bootstrapLayer === undefined) throw new Error("the converted image has no layers");
  await lab.run(["tar", "-xzf", bootstrapLayer.path, "-C", dir, "--strip-components=1", "image/image.boot"]);
  const blobDir = join(dir, "blobs");
  mkdirSync(blobDir);
  for (const { path, digest } of layers.slice(0, -1)) linkSync(path, join(blobDir, digest.replace("sha256:", "")));
}

/** The path of a program. @throws Missing */
export function needProgram(name: string): string {
  const path = findProgram(name);
  if (path === undefined) throw new Missing(`${name} is not installed`);
  return path;
}

/** @throws Missing without root or FUSE */
export function needMounting(): void {
  if (process.getuid?.() !== 0) throw new Missing("mounting needs root");
  if (!existsSync("/dev/fuse")) throw new Missing("there is no /dev/fuse");
}
