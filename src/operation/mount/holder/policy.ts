/** How often and how fast a dead process is replaced. */
export interface FailoverLimits {
  /** So long a successor may take to say that it is there, ms. */
  readonly startMs: number;
  /** So many deaths in a row, each before the process had served for {@link LIVED_MS}, and no successor is started. */
  readonly crashes: number;
  /** So long a process may be silent before it is killed, ms; undefined: by the deadlines of its mounts' reads. */
  readonly silenceMs: number | undefined;
}

const DEFAULT_LIMITS: FailoverLimits = { startMs: 15_000, crashes: 5, silenceMs: undefined };

/** Environment variables of {@link FailoverLimits}. */
const LIMIT_VARIABLES = {
  startMs: "NYDUS_FAILOVER_START_MS",
  crashes: "NYDUS_FAILOVER_CRASHES",
  silenceMs: "NYDUS_FAILOVER_SILENCE_MS",
} as const;

/** Who has served for so long has not died of what it was started with. */
export const LIVED_MS = 500;
/** Wait before the second start in a row; it doubles with each one. */
const FIRST_BACKOFF_MS = 100;
const LAST_BACKOFF_MS = 2_000;
/** A process whose deadlines are shorter may still be silent for so long: a busy machine is no reason to kill it. */
const LEAST_SILENCE_MS = 5_000;
/** What is added to the shortest deadline. */
const SILENCE_MARGIN_MS = 2_000;
/** A tick of the one who watches counts for no more than this: both may have been stopped. */
const LONGEST_TICK_MS = 2_000;

/** The limits, as the environment has them. */
export function failoverLimits(environment: Readonly<Record<string, string | undefined>>): FailoverLimits {
  const numberOf = (name: string): number | undefined => {
    const text = environment[name];
    return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
  };
  return {
    startMs: numberOf(LIMIT_VARIABLES.startMs) ?? DEFAULT_LIMITS.startMs,
    crashes: numberOf(LIMIT_VARIABLES.crashes) ?? DEFAULT_LIMITS.crashes,
    silenceMs: numberOf(LIMIT_VARIABLES.silenceMs) ?? DEFAULT_LIMITS.silenceMs,
  };
}

/** How long a process may be silent whose mounts' reads have these deadlines, ms. */
export function silenceLimitMs(limits: FailoverLimits, readTimeoutsMs: readonly number[]): number {
  return limits.silenceMs ?? Math.max(LEAST_SILENCE_MS, Math.min(...readTimeoutsMs)) + SILENCE_MARGIN_MS;
}

/** Decides when a dead process is replaced. Times are of a clock that only goes forward, ms. */
export class RestartPolicy {
  readonly #crashLimit: number;
  #crashes = 0;
  #resumedAt: number | undefined;

  constructor({ crashes }: Pick<FailoverLimits, "crashes">) {
    this.#crashLimit = crashes;
  }

  /** A process serves. */
  resumed(now: number): void {
    this.#resumedAt = now;
  }

  /** A process has died, or could not be started. @returns the wait before the next start, or that there is none */
  died(now: number): number | "give up" {
    const hasLived = this.#resumedAt !== undefined && now - this.#resumedAt >= LIVED_MS;
    this.#crashes = hasLived ? 0 : this.#crashes + 1;
    this.#resumedAt = undefined;
    if (this.#crashes >= this.#crashLimit) return "give up";
    return this.#crashes === 0 ? 0 : Math.min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (this.#crashes - 1));
  }
}

/** Measures how long a process has been silent, in the time that the one who listens was awake. */
export class SilenceWatch {
  #silentMs = 0;
  #lastTick: number | undefined;

  /** Something was heard. */
  heard(): void {
    this.#silentMs = 0;
  }

  /** To be called once a second or so. @returns for how long nothing was heard, ms */
  tick(now: number): number {
    if (this.#lastTick !== undefined) this.#silentMs += Math.min(LONGEST_TICK_MS, now - this.#lastTick);
    this.#lastTick = now;
    return this.#silentMs;
  }
}
