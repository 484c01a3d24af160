import { isReached, type RowResult, ratioOf, type Unit } from "./benchmark.ts";
import type { Samples } from "./statistics.ts";

const SIGNIFICANT = 3;
const GROUPED_FROM = 1000;

/** A figure with three significant digits, whole from a thousand on. */
export function formatFigure(value: number): string {
  if (value >= GROUPED_FROM) return Math.round(value).toLocaleString("en-US");
  const digits = value === 0 ? 0 : Math.max(0, SIGNIFICANT - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(SIGNIFICANT, digits));
}

/** A figure with its unit. */
export function formatAmount(value: number, unit: Unit): string {
  return `${formatFigure(value)} ${unit}`;
}

/** Median, and from where to where the runs went. */
export function formatSamples({ median, min, max, runs }: Samples): string {
  if (runs === 1) return formatFigure(median);
  return `${formatFigure(median)} (${formatFigure(min)} to ${formatFigure(max)})`;
}

/** What is asked of a row. */
export function formatTarget({ target, better, unit }: RowResult): string {
  if (target === undefined) return "";
  const bound = better === "less" ? "at most" : "at least";
  return "ratio" in target ? `${bound} ${target.ratio.toFixed(2)} x` : `${bound} ${formatAmount(target.figure, unit)}`;
}

/** Ours over the peer's. */
export function formatRatio(result: RowResult): string {
  const ratio = ratioOf(result);
  return ratio === undefined ? "" : `${ratio.toFixed(2)} x`;
}

/** Whether the target was reached. */
export function formatMark(result: RowResult): "" | "reached" | "MISSED" {
  const reached = isReached(result);
  if (reached === undefined) return "";
  return reached ? "reached" : "MISSED";
}
