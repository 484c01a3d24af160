import { NydusError } from "../../base/errors.ts";
import { orAborted } from "../store/abort.ts";
import type { PlannedFetch } from "./fetch-plan.ts";
import type { FetchLane, QueuedFetch } from "./fetch-queue.ts";
import type { FlightAccount } from "./flight-account.ts";

/** What became of a flight's chunks: those that failed, by position; the others are ready. */
export type FlightResult = ReadonlyMap<number, NydusError>;

/** What a {@link Flight} is made for. */
export interface FlightOptions {
  /** For whom it is. */
  readonly lane: FetchLane;
  readonly line?: object | undefined;
  /** Fetches, decodes and writes. */
  readonly work: (flight: Flight) => Promise<FlightResult>;
  /** Called when nobody waits any more, before the abort. */
  readonly onDeserted: (flight: Flight) => void;
}

/** Behind rank 0, what a reader waits for. */
const LANE_RANKS = { demand: 1, ahead: 2, prefetch: 3 } as const satisfies Record<FetchLane, number>;

/**
 * One fetch and those who wait for it. When the last one who waited has gone away it is aborted, and whoever comes later
 * starts a new one.
 */
export class Flight implements QueuedFetch {
  readonly plan: PlannedFetch;
  /** Positions of all its chunks. */
  readonly chunks: readonly number[];
  lane: FetchLane;
  readonly line: object | undefined;
  /** Counts what it costs. */
  account: FlightAccount | undefined;
  /** Settles when all chunks have landed or failed; never rejects. */
  readonly landed: Promise<FlightResult>;
  /** Positions of its chunks that readers have asked for. */
  readonly asked = new Set<number>();
  readonly #abort = new AbortController();
  readonly #work: (flight: Flight) => Promise<FlightResult>;
  readonly #onDeserted: (flight: Flight) => void;
  #settle: (result: FlightResult) => void = () => undefined;
  #waiters = 0;

  constructor(plan: PlannedFetch, options: FlightOptions) {
    this.plan = plan;
    this.chunks = plan.units.flatMap((unit) => unit.chunks);
    this.lane = options.lane;
    this.line = options.line;
    this.#work = options.work;
    this.#onDeserted = options.onDeserted;
    this.landed = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** How soon work on some of its chunks is wanted, as a codec pool has it. */
  rankOf(chunks: readonly number[]): number {
    const isAsked = this.asked.size > 0 && chunks.some((chunk) => this.asked.has(chunk));
    return isAsked ? 0 : LANE_RANKS[this.lane];
  }

  /** Aborted when the fetch is of no use any more. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  abort(reason: NydusError): void {
    this.#abort.abort(reason);
  }

  async run(): Promise<void> {
    let result: FlightResult;
    try {
      result = await this.#work(this);
    } catch (error) {
      // work() reports what fails; whatever else leaves it must not leave readers waiting
      const unforeseen = new NydusError(
        "EFAULT",
        "Cannot fetch chunks: an error in this program",
        {},
        { cause: error },
      );
      result = new Map(this.chunks.map((chunk) => [chunk, unforeseen]));
    }
    this.#settle(result);
  }

  /**
   * Waits for the landing, or for what the caller wants of it.
   * @returns undefined when that came first
   * @throws the signal's reason when it is aborted before
   */
  async join(wanted: Promise<undefined>, signal: AbortSignal | undefined): Promise<FlightResult | undefined> {
    this.#waiters++;
    try {
      return await orAborted(Promise.race([this.landed, wanted]), signal);
    } catch (error) {
      if (this.#waiters === 1) this.#desert();
      throw error;
    } finally {
      this.#waiters--;
    }
  }

  #desert(): void {
    this.#onDeserted(this);
    this.abort(new NydusError("ECANCELED", "Cannot fetch chunks: nobody waits for them"));
  }
}
