import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { mapBounded } from "../../base/async.ts";
import type { ByteRange } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { BlobCache } from "../../content/cache/blob-cache.ts";
import type { OpenedImage } from "./open.ts";
import { resolvePath, walkImage } from "./walk.ts";

/** What of an image is brought before anyone reads it: all, nothing, what its bootstrap says, or what a file lists. */
export type PrefetchChoice = "all" | "none" | "image" | { readonly listPath: string };

/** Most bytes of a list of paths. */
const LIST_BYTES = 16 << 20;
/** Device bytes that are asked for in one go, and how many of them at once. */
const BATCH_BYTES = 4 << 20;
const BATCHES_AT_ONCE = 2;
/** Ranges of a batch so near to one another are asked for as one. */
const GAP_BYTES = 64 << 10;
/** Longest time between two looks at the clock: timers take no numbers that large. */
const PACE_STEP_MS = 60_000;
/** After so many failures one after the other the source is left alone. */
const FAILURES_MAX = 8;

/** How far a prefetch has come. */
export interface PrefetchStats {
  /** Bytes of devices that have been asked for so far, and those of them that have come. */
  readonly askedBytes: number;
  readonly doneBytes: number;
  /** Whether there is nothing more to do. */
  readonly isDone: boolean;
}

/** What {@link Prefetch} is made of. */
export interface PrefetchOptions {
  readonly image: Pick<OpenedImage, "rafs" | "devices">;
  /** `caches[slot - 1]`; closed after the prefetch. */
  readonly caches: readonly Pick<BlobCache, "ensure">[];
  readonly choice: PrefetchChoice;
  /** At most so many device bytes a second. */
  readonly bytesPerSec?: number | undefined;
  /** Hears of what cannot be had; nobody waits for it. */
  readonly onError?: ((error: NydusError) => void) | undefined;
}

interface DeviceRange extends ByteRange {
  /** 1-based slot. */
  readonly device: number;
}

/**
 * Paths of a list, one a line, as they are written in the image; empty lines and those that begin with "#" are none.
 * @throws ENOENT; EINVAL a list that is too long
 */
export async function readPathList(path: string): Promise<Uint8Array[]> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw asNydusError(error, { path });
  }
  if (bytes.length > LIST_BYTES) {
    throw new NydusError("EINVAL", `Cannot read list of paths: ${bytes.length} bytes are too many`, { path });
  }
  return splitLines(bytes).filter((line) => line.length > 0 && line[0] !== 0x23);
}

function splitLines(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  for (let start = 0; start < bytes.length; ) {
    const found = bytes.indexOf(0x0a, start);
    const end = found < 0 ? bytes.length : found;
    lines.push(bytes[end - 1] === 0x0d && end > start ? bytes.subarray(start, end - 1) : bytes.subarray(start, end));
    start = end + 1;
  }
  return lines;
}

/** Brings data of an image in the background, behind everything that a reader waits for, until it is disposed. */
export class Prefetch implements AsyncDisposable {
  readonly #options: PrefetchOptions;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #askedBytes = 0;
  #doneBytes = 0;
  #failures = 0;
  #isDone = false;

  private constructor(options: PrefetchOptions, paths: readonly Uint8Array[]) {
    this.#options = options;
    this.#running = this.#run(paths).catch((error: unknown) => this.#report(error));
  }

  /** @throws ENOENT, EINVAL the list of paths */
  static async start(options: PrefetchOptions): Promise<Prefetch> {
    const { choice } = options;
    return new Prefetch(options, typeof choice === "object" ? await readPathList(choice.listPath) : []);
  }

  get stats(): PrefetchStats {
    return { askedBytes: this.#askedBytes, doneBytes: this.#doneBytes, isDone: this.#isDone };
  }

  /** Resolves when everything has come, or has failed. */
  get done(): Promise<void> {
    return this.#running;
  }

  async #run(paths: readonly Uint8Array[]): Promise<void> {
    const batches = batchesOf(this.#ranges(paths));
    const started = performance.now();
    const bring = async (batch: readonly DeviceRange[]): Promise<void> => {
      await this.#keepPace(started);
      await this.#bring(batch);
    };
    for await (const _ of mapBounded(BATCHES_AT_ONCE, batches, bring)) if (this.#stop.signal.aborted) return;
    this.#isDone = true;
  }

  /** What to bring, in order. What the image or the list says wrong is told and passed over. */
  *#ranges(paths: readonly Uint8Array[]): Generator<DeviceRange> {
    const { choice, image } = this.#options;
    const { erofs, prefetch } = image.rafs;
    if (choice === "all") {
      for (const [i, { sizeBytes }] of image.devices.entries()) yield { device: i + 1, start: 0, end: sizeBytes };
    }
    if (choice === "image") for (const nid of prefetch) yield* this.#below(() => ({ path: new Uint8Array(0), nid }));
    for (const path of paths) yield* this.#below(() => resolvePath(erofs, path, { followLast: true }));
  }

  *#below(find: () => { readonly path: Uint8Array; readonly nid: number }): Generator<DeviceRange> {
    const { erofs } = this.#options.image.rafs;
    try {
      for (const { inode } of walkImage(erofs, { from: find() })) {
        if (inode.type !== "file") continue;
        for (const extent of erofs.extents(inode.nid, 0, Number.MAX_SAFE_INTEGER)) {
          if (extent.kind !== "device") continue;
          const { device, deviceOffset, length } = extent;
          yield { device, start: deviceOffset, end: deviceOffset + length };
        }
      }
    } catch (error) {
      this.#report(error);
    }
  }

  async #keepPace(started: number): Promise<void> {
    const { bytesPerSec } = this.#options;
    if (bytesPerSec === undefined) return;
    while (!this.#stop.signal.aborted) {
      const waitMs = (this.#askedBytes * 1000) / bytesPerSec - (performance.now() - started);
      if (waitMs <= 0) return;
      await sleep(Math.min(waitMs, PACE_STEP_MS), undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  async #bring(batch: readonly DeviceRange[]): Promise<void> {
    const { caches } = this.#options;
    const { signal } = this.#stop;
    if (signal.aborted) return;
    const bytes = batch.reduce((sum, { start, end }) => sum + end - start, 0);
    this.#askedBytes += bytes;
    try {
      await Promise.all(batch.map((range) => caches[range.device - 1]?.ensure(range, { why: "prefetch", signal })));
      this.#doneBytes += bytes;
      this.#failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      this.#report(error);
      if (++this.#failures >= FAILURES_MAX) this.#stop.abort();
    }
  }

  #report(error: unknown): void {
    const { code, message, at } = asNydusError(error);
    const told = new NydusError(code, `Cannot prefetch: ${message}`, at, { cause: error });
    if (!this.#stop.signal.aborted) this.#options.onError?.(told);
  }

  /** Ends it: what is under way is of no use any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new NydusError("ECANCELED", "Cannot prefetch: the mount has ended"));
    await this.#running;
  }
}

/** Ranges in batches, neighbours joined. */
function* batchesOf(ranges: Iterable<DeviceRange>): Generator<DeviceRange[]> {
  let batch: DeviceRange[] = [];
  let bytes = 0;
  for (const range of pieces(ranges)) {
    batch.push(range);
    bytes += range.end - range.start;
    if (bytes < BATCH_BYTES) continue;
    yield joinNear(batch);
    batch = [];
    bytes = 0;
  }
  if (batch.length > 0) yield joinNear(batch);
}

function* pieces(ranges: Iterable<DeviceRange>): Generator<DeviceRange> {
  for (const { device, start, end } of ranges) {
    for (let at = start; at < end; at += BATCH_BYTES) yield { device, start: at, end: Math.min(end, at + BATCH_BYTES) };
  }
}

function joinNear(batch: DeviceRange[]): DeviceRange[] {
  const joined: DeviceRange[] = [];
  for (const range of batch.sort((a, b) => a.device - b.device || a.start - b.start)) {
    const last = joined.at(-1);
    if (last !== undefined && last.device === range.device && range.start - last.end <= GAP_BYTES) {
      joined[joined.length - 1] = { ...last, end: Math.max(last.end, range.end) };
    } else joined.push(range);
  }
  return joined;
}
