import { withDeadline } from "../../base/async.ts";
import { asNydusError, type ErrorPlace, inPlace, NydusError } from "../../base/errors.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { CodecPool, DecodeFailure } from "../../os/codec-pool.ts";
import { orAborted, throwIfAborted } from "../store/abort.ts";
import { type ByteSource, lendFile } from "../store/source.ts";
import { type FetchedBytes, type PlannedJob, planJobs } from "./fill-jobs.ts";
import type { Flight } from "./flight.ts";
import { bytesOfChunks } from "./flight-account.ts";

/** What a {@link Filler} works with. */
export interface FillerOptions {
  readonly chunks: ChunkMap;
  readonly source: ByteSource;
  readonly pool: CodecPool;
  readonly deviceFd: number;
  readonly readTimeoutMs: number;
  /** Of the blob. */
  readonly place: ErrorPlace;
  /** Told of chunks that have been verified and written. */
  readonly onLanded: (chunks: readonly number[]) => void;
}

/** Brings what flights are for: fetches from the source, then has codec threads decode, verify and write it. */
export class Filler {
  readonly #options: FillerOptions;

  constructor(options: FillerOptions) {
    this.#options = options;
  }

  /** Whether the source lies in a local file now. */
  get isLocal(): boolean {
    using file = lendFile(this.#options.source);
    return file !== undefined;
  }

  /** @returns chunks that failed @throws what the source throws; ETIMEDOUT */
  async fill(flight: Flight): Promise<Map<number, NydusError>> {
    const { source } = this.#options;
    const { range } = flight.plan;
    throwIfAborted(flight.signal);
    using file = lendFile(source);
    if (file === undefined) return await this.#land(flight, await this.#fetch(flight));
    const sizeBytes = range.end - range.start;
    flight.account?.onFetched(flight.lane, sizeBytes); // before a reader is told of the first chunks
    return await this.#land(flight, { fd: file.fd, position: file.start + range.start, sizeBytes });
  }

  async #fetch(flight: Flight): Promise<Uint8Array> {
    const { readTimeoutMs, source } = this.#options;
    const { range } = flight.plan;
    const length = range.end - range.start;
    const why = flight.lane === "demand" ? "demand" : "prefetch";
    const place = { ...this.#options.place, offset: range.start, length };
    return await inPlace(place, async () => {
      const start = performance.now();
      const read = (signal: AbortSignal): Promise<Uint8Array> => source.readAt(range, { signal, why });
      const reading = withDeadline(readTimeoutMs, "read blob", read, flight.signal);
      const data = await orAborted(reading, flight.signal);
      throwIfAborted(flight.signal);
      if (data.length !== length)
        throw new NydusError("EIO", `Cannot read blob: ${data.length} bytes came, ${length} wanted`);
      flight.account?.onFetched(flight.lane, length, (performance.now() - start) / 1000);
      return data;
    });
  }

  async #land(flight: Flight, data: FetchedBytes): Promise<Map<number, NydusError>> {
    const { chunks, pool, deviceFd } = this.#options;
    const failures = new Map<number, NydusError>();
    const { asked } = flight;
    const jobs = planJobs({ chunks, deviceFd, threads: pool.threads, asked }, flight.plan, data);
    await Promise.all(jobs.map((job) => this.#run(job, flight, failures)));
    return failures;
  }

  async #run({ job, units }: PlannedJob, flight: Flight, failures: Map<number, NydusError>): Promise<void> {
    const { chunks, pool, place, onLanded } = this.#options;
    const start = performance.now();
    const filled = units.flatMap((unit) => unit.chunks);
    const urgency = {
      get rank() {
        return flight.rankOf(filled);
      },
    };
    const results = await pool.fill(job, urgency).catch((error: unknown) => asNydusError(error));
    const landed: number[] = [];
    for (const [u, unit] of units.entries()) {
      const failure = results instanceof NydusError ? results : results[u];
      if (failure === undefined) landed.push(...unit.chunks);
      else {
        const at = { ...place, ...blobPlace(chunks, unit.chunks) };
        for (const chunk of unit.chunks) failures.set(chunk, failureOf(failure, unit.chunks, at));
      }
    }
    flight.account?.onDecoded(bytesOfChunks(chunks, landed), (performance.now() - start) / 1000);
    onLanded(landed);
  }
}

/** Where in the blob the first of some chunks is. */
export function blobPlace(chunks: ChunkMap, positions: readonly number[]): ErrorPlace {
  const [first] = positions;
  if (first === undefined) return {};
  return { offset: chunks.blobOffset(first), length: chunks.blobSizeBytes(first) };
}

function failureOf(found: DecodeFailure | NydusError, chunks: readonly number[], place: ErrorPlace): NydusError {
  if (found instanceof NydusError) return found.within(place);
  const [first, last] = [chunks[0], chunks.at(-1)];
  const which = first === last ? `chunk ${first}` : `chunks ${first} to ${last}`;
  return new NydusError(found.code, `${found.message} (${which})`, place);
}
