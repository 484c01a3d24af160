import { withDeadline } from "../../base/async.ts";
import { alignUp, BLOCK_BYTES, type ByteRange } from "../../base/bytes.ts";
import { digestOfHex } from "../../base/digest.ts";
import { asNydusError, type ErrorPlace, inPlace, NydusError } from "../../base/errors.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { CodecPool } from "../../os/codec-pool.ts";
import { throwIfAborted } from "../store/abort.ts";
import { syncData } from "../store/file-io.ts";
import { checkRange } from "../store/file-source.ts";
import type { ByteSource, ReadOptions, ReadPurpose } from "../store/source.ts";
import { type CacheFiles, openCacheFiles } from "./cache-files.ts";
import { type ChunkSpan, chunksOf, refuseGaps } from "./chunk-range.ts";
import { FetchMeter, type FetchStats } from "./fetch-meter.ts";
import { FETCH_LIMITS, planFetches } from "./fetch-plan.ts";
import { type FetchLane, FetchQueue } from "./fetch-queue.ts";
import { blobPlace, Filler } from "./filler.ts";
import { Flight, type FlightResult } from "./flight.ts";
import { type AccountStart, bytesOfChunks, countGivenUp, FlightAccount } from "./flight-account.ts";
import { type Beside, Neighbours } from "./neighbours.ts";
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
  /** Waits until the data file is on the disk; `syncData` unless a test has another one. */
  readonly syncDataFile?: ((fd: number, path: string) => Promise<void>) | undefined;
}

/** Options of {@link BlobCache.ensure}. */
export interface EnsureOptions extends ReadOptions {
  /** Counts what is fetched because of this call, beside the cache's own count. */
  readonly meter?: FetchMeter;
}

/** What a cache has done since it was opened. */
export interface CacheStats {
  /** Requests to the source that gave bytes, and how many bytes, by whom they were for. */
  readonly requests: number;
  /** Also what readers' misses brought along, which {@link aheadBytes} counts alone. */
  readonly demandBytes: number;
  readonly aheadBytes: number;
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
/** For whom fetches are launched. */
interface LaunchOptions {
  readonly lane: FetchLane;
  readonly account: AccountStart;
  readonly line?: object | undefined;
}

const NOTHING_BESIDE: Beside = { along: [], behind: [] };

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
  readonly #filler: Filler;
  readonly #queue = new FetchQueue();
  readonly #neighbours: Neighbours;
  /** By chunk position: the flight that is to bring it. */
  readonly #inFlight = new Map<number, Flight>();
  readonly #flights = new Set<Flight>();
  /** Called when chunks have landed. */
  readonly #waiters = new Set<() => void>();
  readonly #meter = new FetchMeter();
  #chunksFilled = 0;
  #chunksFailed = 0;
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
    this.#neighbours = new Neighbours(options.chunks, (i) => this.#isWorthFetching(i));
    const { chunks, source, pool, readTimeoutMs = CACHE_DEFAULTS.readTimeoutMs } = options;
    this.#filler = new Filler({
      ...{ chunks, source, pool, readTimeoutMs, deviceFd: files.dataFd, place: this.#place },
      onLanded: (landed) => this.#onLanded(landed),
    });
  }

  /** Opens the cache of a blob, with what an earlier process left in it. @throws ENOSPC, EPERM, EIO; EINVAL the id */
  static async open(options: BlobCacheOptions): Promise<BlobCache> {
    const { dir, id, chunks, sizeBytes } = options;
    digestOfHex(id); // goes into a path
    const map = new ReadyMap(chunks);
    const files = await openCacheFiles({ dir, id, deviceBytes: sizeBytes, chunks }, map);
    const cache = new BlobCache(options, files, map);
    // The first reader is not to wait for the start of a thread.
    if (!cache.isReady({ start: 0, end: sizeBytes })) options.pool.warmUp();
    return cache;
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
    const { requests, demandBytes, aheadBytes, prefetchBytes, decodedBytes } = this.fetched;
    const chunks = { chunksFilled: this.#chunksFilled, filledBytes: decodedBytes, chunksFailed: this.#chunksFailed };
    return { requests, demandBytes: demandBytes + aheadBytes, aheadBytes, prefetchBytes, ...chunks };
  }

  /** What was fetched of the blob since the cache was opened. */
  get fetched(): FetchStats {
    return this.#meter.stats;
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
  async ensure(range: ByteRange, options: EnsureOptions = {}): Promise<void> {
    const { why = "demand" } = options;
    checkRange(range, alignUp(this.sizeBytes, BLOCK_BYTES));
    for (let start = range.start; start < range.end; start += WINDOW_BYTES) {
      const window = { start, end: Math.min(range.end, start + WINDOW_BYTES) };
      const span = chunksOf(this.chunks, window);
      if (why === "demand") inPlace(this.#place, () => refuseGaps(this.chunks, window, span));
      let missing = this.#missing(span);
      if (missing.length === 0) continue;
      this.#refuseClosed();
      this.#map.refresh();
      missing = this.#missing(span);
      // What cannot be verified is refused to a reader, and passed over by a prefetch.
      if (why === "prefetch") missing = missing.filter((chunk) => this.#isVerifiable(chunk));
      if (missing.length > 0) await this.#bring(missing, why, options);
    }
  }

  #refuseClosed(): void {
    if (this.#closing === undefined) return;
    throw new NydusError("ECANCELED", "Cannot read blob: its cache is closed", this.#place);
  }

  #missing({ first, end }: ChunkSpan): number[] {
    const missing: number[] = [];
    for (let i = first; i < end; i++) if (!this.#map.isReady(i)) missing.push(i);
    return missing;
  }

  async #bring(missing: readonly number[], why: ReadPurpose, { signal, meter }: EnsureOptions): Promise<void> {
    const meters = meter === undefined ? [this.#meter] : [this.#meter, meter];
    const { readTimeoutMs = CACHE_DEFAULTS.readTimeoutMs } = this.#options;
    throwIfAborted(signal);
    this.#refuseUnverifiable(missing);
    const waits = (inner: AbortSignal | undefined): Promise<void> =>
      this.#await(missing, this.#flightsFor(missing, why, meters), inner);
    // A prefetch may stand in the queue for as long as readers have work for it.
    if (why === "prefetch") return waits(signal);
    try {
      await inPlace(this.#placeOf(missing), () => withDeadline(readTimeoutMs, "read blob", waits, signal));
    } catch (error) {
      countGivenUp(meters, error, missing.filter((chunk) => !this.#map.isReady(chunk)).length);
      throw error;
    }
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
    return { ...this.#place, ...blobPlace(this.chunks, chunks) };
  }

  /** The flights that bring chunks: those under way, and new ones for the rest. */
  #flightsFor(missing: readonly number[], why: ReadPurpose, meters: readonly FetchMeter[]): Set<Flight> {
    const flights = new Set<Flight>();
    const wanted: number[] = [];
    for (const chunk of missing) {
      const flight = this.#inFlight.get(chunk);
      if (flight === undefined) wanted.push(chunk);
      else flights.add(flight);
    }
    if (why === "demand") this.#hurry(missing, flights);
    const beside = why === "demand" ? this.#neighbours.of(missing, this.#filler.isLocal) : NOTHING_BESIDE;
    const along = this.#launch([...wanted, ...beside.along], { lane: why, account: { meters, wanted } });
    for (const flight of along) flights.add(flight);
    // Some may have come into the flights above with their batch.
    const behind = beside.behind.filter((chunk) => this.#isWorthFetching(chunk));
    this.#launch(behind, { lane: "ahead", account: { meters }, line: beside.reader });
    return flights;
  }

  /** A reader waits for chunks that are under way. */
  #hurry(asked: readonly number[], flights: ReadonlySet<Flight>): void {
    for (const chunk of asked) this.#inFlight.get(chunk)?.asked.add(chunk);
    for (const flight of flights) this.#queue.promote(flight);
    if (flights.size > 0) this.#options.pool.reconsider();
  }

  #launch(chunks: readonly number[], { lane, account, line }: LaunchOptions): Flight[] {
    const unitBytes = lane === "demand" ? FETCH_LIMITS.unitBytes : FETCH_LIMITS.backgroundUnitBytes;
    const plans = planFetches({
      chunks: this.chunks,
      wanted: chunks,
      mayAdd: (i) => this.#isWorthFetching(i),
      unitBytes,
    });
    return plans.map((plan) => {
      const flight = new Flight(plan, {
        ...{ lane, line },
        work: (own) => this.#fly(own),
        onDeserted: (own) => this.#forget(own),
      });
      flight.account = new FlightAccount(plan, account);
      for (const chunk of flight.chunks) this.#inFlight.set(chunk, flight);
      const { wanted = [] } = account;
      if (lane === "demand") for (const i of wanted) if (this.#inFlight.get(i) === flight) flight.asked.add(i);
      this.#flights.add(flight);
      this.#queue.add(flight);
      return flight;
    });
  }

  #isWorthFetching(chunk: number): boolean {
    return !this.#map.isReady(chunk) && !this.#inFlight.has(chunk) && this.#isVerifiable(chunk);
  }

  #forget(flight: Flight): void {
    for (const chunk of flight.chunks) if (this.#inFlight.get(chunk) === flight) this.#inFlight.delete(chunk);
  }

  async #await(
    missing: readonly number[],
    flights: ReadonlySet<Flight>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    // Whatever else comes with them: a reader waits for its own chunks only.
    let settle = (): void => undefined;
    const wanted = new Promise<undefined>((resolve) => {
      settle = () => resolve(undefined);
    });
    const waiter = (): void => {
      if (missing.every((chunk) => this.#map.isReady(chunk))) settle();
    };
    this.#waiters.add(waiter);
    try {
      const results = await Promise.all([...flights].map((flight) => flight.join(wanted, signal)));
      for (const chunk of missing) this.#refuseFailed(chunk, results);
    } finally {
      this.#waiters.delete(waiter);
    }
  }

  #refuseFailed(chunk: number, results: readonly (FlightResult | undefined)[]): void {
    if (this.#map.isReady(chunk)) return;
    const failure = results.map((result) => result?.get(chunk)).find((found) => found !== undefined);
    if (failure !== undefined) throw failure;
    throw new NydusError("EFAULT", "Cannot read blob: a chunk neither landed nor failed", this.#placeOf([chunk]));
  }

  async #fly(flight: Flight): Promise<FlightResult> {
    let failures = new Map<number, NydusError>();
    try {
      this.#refuseClosed();
      this.#map.refresh();
      const isHere = flight.chunks.every((chunk) => this.#map.isReady(chunk));
      if (!isHere) failures = await this.#filler.fill(flight);
    } catch (error) {
      for (const chunk of flight.chunks) if (!this.#map.isReady(chunk)) failures.set(chunk, asNydusError(error));
    } finally {
      this.#forget(flight);
      this.#flights.delete(flight);
    }
    this.#chunksFailed += failures.size;
    flight.account?.onFailed(flight.lane, failures.values());
    return failures;
  }

  /** Chunks are verified and written: says that they are ready. */
  #onLanded(landed: readonly number[]): void {
    for (const chunk of landed) this.#map.setReady(chunk);
    for (const waiter of this.#waiters) waiter();
    this.#chunksFilled += landed.length;
    this.#unflushedBytes += bytesOfChunks(this.chunks, landed);
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
    const { syncDataFile = syncData } = this.#options;
    const sync = (): Promise<void> => syncDataFile(this.#files.syncFd, this.dataPath);
    const flushed = this.#flushing.then(() => this.#map.flush(sync, this.#files.appendLock));
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
      await this.#files.close();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
