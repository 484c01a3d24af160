import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ImageMounts, SnapshotImage } from "../../src/service/snapshotter/image-mounts.ts";
import { Snapshotter } from "../../src/service/snapshotter/snapshotter.ts";

/** Image mounts that only keep account: what is mounted is a directory with one file. */
export class FakeMounts implements ImageMounts {
  readonly mounted = new Map<string, SnapshotImage>();
  readonly calls: string[] = [];
  /** What sweeps were told to keep. */
  readonly swept: string[][] = [];
  /** Thrown by the next mounts. */
  failure: Error | undefined;
  /** Mounting waits for it. */
  gate: Promise<void> = Promise.resolve();
  closed = false;

  async mount(image: SnapshotImage, signal: AbortSignal): Promise<void> {
    this.calls.push(`mount ${image.snapshotId}`);
    await this.gate;
    signal.throwIfAborted();
    if (this.failure !== undefined) throw this.failure;
    mkdirSync(image.mountpoint, { recursive: true });
    writeFileSync(join(image.mountpoint, "of-image"), image.name);
    this.mounted.set(image.mountpoint, image);
  }

  async umount(mountpoint: string): Promise<void> {
    this.calls.push(`umount ${mountpoint.split("/").at(-2)}`);
    if (this.failure !== undefined) throw this.failure;
    this.mounted.delete(mountpoint);
  }

  isMounted(mountpoint: string): boolean {
    return this.mounted.has(mountpoint);
  }

  async blobUsageBytes(blobId: string): Promise<number> {
    return blobId.startsWith("a") ? 4096 : 512;
  }

  async sweep(needed: ReadonlySet<string>): Promise<void> {
    this.swept.push([...needed].sort());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.closed = true;
  }
}

/** A snapshotter in a directory of its own. */
export class SnapshotterLab implements AsyncDisposable {
  readonly root = mkdtempSync(join(tmpdir(), "nydus-sn-"));
  readonly mounts = new FakeMounts();
  readonly log: string[] = [];
  readonly signal = new AbortController().signal;
  snapshotter = this.#open();

  #open(): Snapshotter {
    const log = (message: string): void => void this.log.push(message);
    return new Snapshotter({ root: this.root, mounts: this.mounts, overlayOptions: ["index=off"], log });
  }

  /** Ends the snapshotter, lets something happen, and starts it again. */
  async restart(between: () => void = () => undefined): Promise<void> {
    await this.snapshotter[Symbol.asyncDispose]();
    between();
    this.snapshotter = this.#open();
  }

  /** The path of something of the snapshotter. */
  path(...names: string[]): string {
    return join(this.root, "snapshotter", ...names);
  }

  prepare(key: string, parent = "", labels: Readonly<Record<string, string>> = {}) {
    return this.snapshotter.prepare({ key, parent, labels: new Map(Object.entries(labels)) }, this.signal);
  }

  view(key: string, parent = "", labels: Readonly<Record<string, string>> = {}) {
    return this.snapshotter.view({ key, parent, labels: new Map(Object.entries(labels)) }, this.signal);
  }

  commit(key: string, name: string, labels: Readonly<Record<string, string>> = {}, parent = "") {
    return this.snapshotter.commit({ key, name, parent, labels: new Map(Object.entries(labels)) });
  }

  /** A committed snapshot with one file. @returns its directory's number */
  async layer(name: string, parent = "", labels: Readonly<Record<string, string>> = {}): Promise<number> {
    await this.prepare(`${name} unpacking`, parent, labels);
    const { id } = this.snapshotter.stat(`${name} unpacking`);
    writeFileSync(this.path("snapshots", String(id), "fs", name.replaceAll("/", "_")), name);
    await this.commit(`${name} unpacking`, name, labels);
    return id;
  }

  /** The keys of all snapshots. */
  keys(...filters: string[]): string[] {
    return this.snapshotter.list(filters).map(({ key }) => key);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.snapshotter[Symbol.asyncDispose]();
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** The code of what is thrown, "nothing" when nothing is. */
export async function codeOf(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    return String((error as { code?: unknown }).code ?? error);
  }
  return "nothing";
}
