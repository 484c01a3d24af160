import { withDeadline } from "../../base/async.ts";
import { alignUp, BLOCK_BYTES, type ByteRange, concatBytes } from "../../base/bytes.ts";
import { digestOfHex } from "../../base/digest.ts";
import { asNydusError, type ErrorPlace, inPlace, NydusError } from "../../base/errors.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { CodecPool, DecodeFailure } from "../../os/codec-pool.ts";
import { orAborted, throwIfAborted } from "../store/abort.ts";
import { syncData, writeFully } from "../store/file-io.ts";
import { checkRange } from "../store/file-source.ts";
import type { ByteSource, ReadPurpose } from "../store/source.ts";
import { type CacheFiles, openCacheFiles } from "./cache-files.ts";
import { type ChunkSpan, chunksOf, refuseGaps } from "./chunk-range.ts";
import { type PlannedJob, planJobs } from "./decode-jobs.ts";
import { FETCH_LIMITS, planFetches } from "./fetch-plan.ts";
import { FetchQueue } from "./fetch-queue.ts";
import { Flight, type FlightResult } from "./flight.ts";
import { ReadyMap } from "./ready-map.ts";

/** What {@link BlobCache.open} needs. */
export interface BlobCacheOptions {
  /** Directory of all caches of one state directory; made if need be. */
  readonly dir: string;
  /** The blob's id: 64 hex digits. */
  readonly id: string;
  readonly chunks: ChunkMap;
  /** The blob; the caller closes it, after the cache. */
  readonly source: ByteSource;
  readonly pool: CodecPool;
  /** Of the device. */
  readonly sizeBytes: number;
  /** A reader that gets nothing for so long gets ETIMEDOUT. */
  readonly readTimeoutMs?: number | undefined;
}

/** What a cache has done since it was opened. */
export interface CacheStats {
  /** Requests to the source that gave bytes, and how many bytes, by whom they were for. */
  readonly requests: number;
  readonly demandBytes: number;
  readonly prefetchBytes: number;
  /** Chunks verified and written, and their bytes. */
  readonly chunksFilled: number;
  readonly filledBytes: number;
  readonly chunksFailed: number;
}

/** Defaults of {@link BlobCacheOptions}, and when the map is made durable. */
export const CACHE_DEFAULTS = { readTimeoutMs: 30_000, flushMs: 2_000, flushBytes: 64 << 20 } as const;

/** Device bytes that one step of {@link BlobCache.ensure} looks at: bounds what waits in the queue. */
const WINDOW_BYTES = 16 << 20;
/** Neighbouring chunks are written in one go up to so many bytes. */
const WRITE_BYTES = 1 << 20;

/**
 * The uncompressed device of one blob, filled as it is asked for: a sparse file and a map of what is ready in it.
 * A byte is written only after its chunk was verified, and a chunk is ready only after it was written. A chunk that
 * has neither digest nor checksum cannot be verified: it is never cached, and asking for it is EIO.
 */
export class BlobCache implements AsyncDisposable {
  readonly sizeBytes: number;
  readonly chunks: ChunkMap;
  readonly #options: BlobCacheOptions;
  readonly #place: ErrorPlace;
  readonly #files: CacheFiles;
  readonly #map: ReadyMap;
  readonly #queue = new FetchQueue();
  /** By chunk position: the flight that is to bring it. */
  readonly #inFlight = new Map<number, Flight>();
  readonly #flights = new Set<Flight>();
  readonly #stats = {
    requests: 0,
    demandBytes: 0,
    prefetchBytes: 0,
    chunksFilled: 0,
    filledBytes: 0,
    chunksFailed: 0,
  };
  #unflushedBytes = 0;
  #flushTimer: ReturnType<typeof setTimeout> | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(options: BlobCacheOptions, files: CacheFiles, map: ReadyMap) {
    this.sizeBytes = options.sizeBytes;
    this.chunks = options.chunks;
    this.#options = options;
    this.#place = { digest: digestOfHex(options.id) };
    this.#files = files;
    this.#map = map;
  }

  /** Opens the cache of a blob, with what an earlier process left in it. @throws ENOSPC, EPERM, EIO; EINVAL the id */
  static async open(options: BlobCacheOptions): Promise<BlobCache> {
    const { dir, id, chunks, sizeBytes } = options;
    digestOfHex(id); // goes into a path
    const map = new ReadyMap(chunks);
    const files = await openCacheFiles({ dir, id, deviceBytes: sizeBytes }, map);
    return new BlobCache(options, files, map);
  }

  /** Descriptor of the data file: byte `i` is device byte `i`, and true where its chunk is ready. */
  get fd(): number {
    return this.#files.dataFd;
  }

  /** Path of the data file. */
  get dataPath(): string {
    return this.#files.dataPath;
  }

  /** Bit `i` (of byte `i >> 3`, from the lowest) is set when chunk `i` is ready; shared memory. */
  get ready(): Uint8Array<SharedArrayBuffer> {
    return this.#map.bits;
  }

  get stats(): CacheStats {
    return { ...this.#stats };
  }

  /** Whether every chunk that overlaps a range of the device is ready. */
  isReady(range: ByteRange): boolean {
    const { first, end } = chunksOf(this.chunks, range);
    for (let i = first; i < end; i++) if (!this.#map.isReady(i)) return false;
    return true;
  }

  /**
   * Makes every chunk that overlaps a range of the device ready. What is missing is fetched once however many ask,
   * a reader's before a prefetch; a reader's miss brings what follows along.
   * @throws EBADMSG, EUCLEAN, ENOTSUP a chunk that does not decode to what the image says; EIO one that cannot be
   *   verified; EUCLEAN (demand) blocks that no chunk holds; ETIMEDOUT, ECANCELED; ENOSPC; what the source throws
   */
  async ensure(range: ByteRange, options: { why?: ReadPurpose; signal?: AbortSignal } = {}): Promise<void> {
    const { why = "demand", signal } = options;
    checkRange(range, alignUp(this.sizeBytes, BLOCK_BYTES));
    for (let start = range.start; start < range.end; start += WINDOW_BYTES) {
      const window = { start, end: Math.min(range.end, start + WINDOW_BYTES) };
      const span = chunksOf(this.chunks, window);
      if (why === "demand") inPlace(this.#place, () => refuseGaps(this.chunks, window, span));
      const missing = this.#missing(span);
      if (missing.length > 0) await this.#bring(missing, why, signal);
    }
  }

  #missing({ first, end }: ChunkSpan): number[] {
    const missing: number[] = [];
    for (let i = first; i < end; i++) if (!this.#map.isReady(i)) missing.push(i);
    return missing;
  }

  async #bring(missing: readonly number[], why: ReadPurpose, signal: AbortSignal | undefined): Promise<void> {
    const { readTimeoutMs = CACHE_DEFAULTS.readTimeoutMs } = this.#options;
    throwIfAborted(signal);
    if (this.#closing !== undefined)
      throw new NydusError("ECANCELED", "Cannot read blob: its cache is closed", this.#place);
    this.#refuseUnverifiable(missing);
    const waits = (inner: AbortSignal | undefined): Promise<void> =>
      this.#await(missing, this.#flightsFor(missing, why), inner);
    // A prefetch may stand in the queue for as long as readers have work for it.
    if (why === "prefetch") return waits(signal);
    await inPlace(this.#placeOf(missing), () => withDeadline(readTimeoutMs, "read blob", waits, signal));
  }

  #refuseUnverifiable(missing: readonly number[]): void {
    const found = missing.find((i) => !this.#isVerifiable(i));
    if (found === undefined) return;
    const message = "Cannot verify chunk: the image has neither digest nor checksum of it";
    throw new NydusError("EIO", message, this.#placeOf([found]));
  }

  #isVerifiable(chunk: number): boolean {
    return this.chunks.digest(chunk) !== undefined || this.chunks.crc32c(chunk) !== undefined;
  }

  /** Where in the blob chunks are. */
  #placeOf(chunks: readonly number[]): ErrorPlace {
    const [first] = chunks;
    if (first === undefined) return this.#place;
    return { ...this.#place, offset: this.chunks.blobOffset(first), length: this.chunks.blobSizeBytes(first) };
  }

  /** The flights that bring chunks: those under way, and new ones for the rest. */
  #flightsFor(missing: readonly number[], why: ReadPurpose): Set<Flight> {
    const flights = new Set<Flight>();
    const wanted: number[] = [];
    for (const chunk of missing) {
      const flight = this.#inFlight.get(chunk);
      if (flight === undefined) wanted.push(chunk);
      else flights.add(flight);
    }
    if (why === "demand") for (const flight of flights) this.#queue.promote(flight);
    const mayAdd = (i: number): boolean => !this.#map.isReady(i) && !this.#inFlight.has(i) && this.#isVerifiable(i);
    const amplifyBytes = why === "demand" ? FETCH_LIMITS.amplifyBytes : 0;
    for (const plan of planFetches({ chunks: this.chunks, wanted, mayAdd, amplifyBytes })) {
      const flight = new Flight(
        plan,
        why,
        (own) => this.#fly(own),
        (own) => this.#forget(own),
      );
      for (const chunk of flight.chunks) this.#inFlight.set(chunk, flight);
      this.#flights.add(flight);
      flights.add(flight);
      this.#queue.add(flight);
    }
    return flights;
  }

  #forget(flight: Flight): void {
    for (const chunk of flight.chunks) if (this.#inFlight.get(chunk) === flight) this.#inFlight.delete(chunk);
  }

  async #await(
    missing: readonly number[],
    flights: ReadonlySet<Flight>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const results = await Promise.all([...flights].map((flight) => flight.join(signal)));
    for (const chunk of missing) {
      if (this.#map.isReady(chunk)) continue;
      const failure = results.map((result) => result.get(chunk)).find((found) => found !== undefined);
      throw (
        failure ??
        new NydusError("EFAULT", "Cannot read blob: a chunk neither landed nor failed", this.#placeOf([chunk]))
      );
    }
  }

  async #fly(flight: Flight): Promise<FlightResult> {
    const failures = new Map<number, NydusError>();
    try {
      const data = await this.#fetch(flight);
      const jobs = planJobs(this.chunks, flight.plan, data, this.#options.pool.threads);
      await Promise.all(jobs.map((job) => this.#decode(job, failures)));
    } catch (error) {
      for (const chunk of flight.chunks) if (!this.#map.isReady(chunk)) failures.set(chunk, asNydusError(error));
    } finally {
      this.#forget(flight);
      this.#flights.delete(flight);
    }
    this.#stats.chunksFailed += failures.size;
    return failures;
  }

  async #fetch(flight: Flight): Promise<Uint8Array> {
    const { readTimeoutMs = CACHE_DEFAULTS.readTimeoutMs, source } = this.#options;
    const { range } = flight.plan;
    const length = range.end - range.start;
    const place = { ...this.#place, offset: range.start, length };
    return await inPlace(place, async () => {
      throwIfAborted(flight.signal);
      const read = (signal: AbortSignal): Promise<Uint8Array> => source.readAt(range, { signal, why: flight.why });
      const reading = withDeadline(readTimeoutMs, "read blob", read, flight.signal);
      const data = await orAborted(reading, flight.signal);
      throwIfAborted(flight.signal);
      if (data.length !== length)
        throw new NydusError("EIO", `Cannot read blob: ${data.length} bytes came, ${length} wanted`);
      this.#stats.requests++;
      this.#stats[flight.why === "demand" ? "demandBytes" : "prefetchBytes"] += length;
      return data;
    });
  }

  async #decode(planned: PlannedJob, failures: Map<number, NydusError>): Promise<void> {
    const results = await this.#options.pool.decode(planned.job).catch((error: unknown) => asNydusError(error));
    const landing: LandingChunk[] = [];
    for (const [u, unit] of planned.units.entries()) {
      const result = results instanceof NydusError ? results : results[u];
      if (result instanceof Uint8Array) {
        for (const chunk of unit.chunks) landing.push({ chunk, bytes: this.#chunkBytes(chunk, result) });
      } else {
        const place = { ...this.#placeOf(unit.chunks) };
        for (const chunk of unit.chunks) failures.set(chunk, failureOf(result, unit.chunks, place));
      }
    }
    for (const run of writeRuns(landing, this.chunks)) await this.#land(run, failures);
  }

  #chunkBytes(chunk: number, unit: Uint8Array): Uint8Array {
    const start = this.chunks.offsetInUnit(chunk);
    return unit.subarray(start, start + this.chunks.sizeBytes(chunk));
  }

  /** Writes chunks that lie one after the other, then says that they are ready. */
  async #land(run: readonly LandingChunk[], failures: Map<number, NydusError>): Promise<void> {
    const start = this.chunks.deviceOffset((run[0] as LandingChunk).chunk);
    const data = joinRun(run, this.chunks);
    try {
      await writeFully(this.fd, data, start, this.dataPath);
    } catch (error) {
      for (const { chunk } of run) failures.set(chunk, asNydusError(error, this.#place));
      return;
    }
    for (const { chunk } of run) this.#map.setReady(chunk);
    this.#stats.chunksFilled += run.length;
    this.#stats.filledBytes += data.length;
    this.#unflushedBytes += data.length;
    if (this.#unflushedBytes >= CACHE_DEFAULTS.flushBytes) this.#flushSoon(0);
    else this.#flushSoon(CACHE_DEFAULTS.flushMs);
  }

  #flushSoon(delayMs: number): void {
    if (this.#flushTimer !== undefined || !this.#map.isDirty) return;
    this.#flushTimer = setTimeout(() => {
      // What cannot be made durable is fetched again after a restart; the next flush tries again.
      void this.flush().catch(() => undefined);
    }, delayMs);
    this.#flushTimer.unref();
  }

  /** Makes durable what is ready: data first, then the map. @throws EIO, ENOSPC */
  flush(): Promise<void> {
    clearTimeout(this.#flushTimer);
    this.#flushTimer = undefined;
    this.#unflushedBytes = 0;
    const flushed = this.#flushing.then(() => this.#map.flush(() => syncData(this.fd, this.dataPath)));
    this.#flushing = flushed.catch(() => undefined);
    return inPlace(this.#place, () => flushed);
  }

  /** Ends what is under way (ECANCELED), makes durable what is ready and closes the files; may be called again. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const reason = new NydusError("ECANCELED", "Cannot read blob: its cache is closed", this.#place);
    const flights = [...this.#flights];
    for (const flight of flights) flight.abort(reason);
    await Promise.all(flights.map((flight) => flight.landed));
    try {
      await this.flush();
    } finally {
      clearTimeout(this.#flushTimer);
      await this.#map.close();
      await this.#files.close();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

interface LandingChunk {
  readonly chunk: number;
  readonly bytes: Uint8Array;
}

function failureOf(
  found: DecodeFailure | NydusError | undefined,
  chunks: readonly number[],
  place: ErrorPlace,
): NydusError {
  if (found instanceof NydusError) return found.within(place);
  const { code, message } = found ?? { code: "EFAULT" as const, message: "Cannot decode chunk: the pool gave nothing" };
  const [first, last] = [chunks[0], chunks.at(-1)];
  const which = first === last ? `chunk ${first}` : `chunks ${first} to ${last}`;
  return new NydusError(code, `${message} (${which})`, place);
}

/** Chunks in runs whose blocks follow one another in the device. */
function writeRuns(landing: LandingChunk[], chunks: ChunkMap): LandingChunk[][] {
  const runs: LandingChunk[][] = [];
  let runStart = 0;
  let runEnd = -1;
  for (const one of landing.sort((a, b) => a.chunk - b.chunk)) {
    const start = chunks.deviceOffset(one.chunk);
    const end = start + one.bytes.length;
    if (start === runEnd && end - runStart <= WRITE_BYTES) {
      runs.at(-1)?.push(one);
    } else {
      runs.push([one]);
      runStart = start;
    }
    runEnd = alignUp(end, BLOCK_BYTES);
  }
  return runs;
}

/** The bytes of a run; zeros from a chunk's end to its block's: they are nobody's. */
function joinRun(run: readonly LandingChunk[], chunks: ChunkMap): Uint8Array {
  const pieces: Uint8Array[] = [];
  for (const [i, { chunk, bytes }] of run.entries()) {
    pieces.push(bytes);
    const next = run[i + 1];
    if (next === undefined) continue;
    const padding = chunks.deviceOffset(next.chunk) - (chunks.deviceOffset(chunk) + bytes.length);
    if (padding > 0) pieces.push(new Uint8Array(padding));
  }
  return concatBytes(pieces);
}
