import type { Lab } from "./lab.ts";
import type { Samples } from "./statistics.ts";

/** Units of figures, as they are printed. */
export type Unit = "s" | "ms" | "MB/s" | "MiB/s" | "GB/s" | "MB" | "MiB" | "reads/s";

/** One figure that a benchmark gives for each side. */
export interface Row {
  /** For `--only`; unique. */
  readonly name: string;
  readonly title: string;
  readonly unit: Unit;
  readonly better: "less" | "more";
  /** What ours must reach: so many times the peer's figure, or the figure itself. Undefined: shown only. */
  readonly target?: { readonly ratio: number } | { readonly figure: number };
}

/** The figures of one run of one side, by the names of the rows; a row may be missing. */
export type Figures = Readonly<Record<string, number>>;

/** The two sides of a benchmark, made ready. */
export interface Sides {
  ours(): Promise<Figures>;
  /** Undefined where there is nothing to compare with. */
  readonly peer?: (() => Promise<Figures>) | undefined;
}

/** A measurement of both sides in turn. */
export interface Benchmark {
  readonly name: string;
  /** Who stands beside ours, as the table shows it. */
  readonly peer: string;
  readonly rows: readonly Row[];
  /** Runs for each one that was asked for; 1 unless given. */
  readonly runsFactor?: number;
  /** Makes what both sides need, in the lab, which releases it. @throws Missing what this machine lacks */
  prepare(lab: Lab): Promise<Sides>;
}

/** A benchmark cannot be run here; the message says what is missing. */
export class Missing extends Error {
  override readonly name = "Missing";
}

/** What a row came to. */
export interface RowResult extends Row {
  readonly benchmark: string;
  readonly peerName: string;
  readonly ours: Samples;
  readonly peer?: Samples | undefined;
}

/** Ours over the peer's, by medians. */
export function ratioOf({ ours, peer }: RowResult): number | undefined {
  return peer === undefined || peer.median === 0 ? undefined : ours.median / peer.median;
}

/** Whether the target was reached; undefined where there is none, or no peer to compare with. */
export function isReached(result: RowResult): boolean | undefined {
  const { target, better, ours } = result;
  if (target === undefined) return undefined;
  const [found, wanted] = "ratio" in target ? [ratioOf(result), target.ratio] : [ours.median, target.figure];
  if (found === undefined) return undefined;
  return better === "less" ? found <= wanted : found >= wanted;
}
