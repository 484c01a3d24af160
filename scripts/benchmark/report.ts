import type { RowResult } from "./benchmark.ts";
import { formatMark, formatRatio, formatSamples, formatTarget } from "./format.ts";

const HEAD = ["", "unit", "ours", "peer", "", "ratio", "target", ""] as const;

function cellsOf(result: RowResult): string[] {
  const { title, unit, ours, peer, peerName } = result;
  const beside = peer === undefined ? "" : formatSamples(peer);
  const ratio = formatRatio(result);
  return [title, unit, formatSamples(ours), beside, peerName, ratio, formatTarget(result), formatMark(result)];
}

/** The results as a table of text: medians, and in brackets the least and the most. */
export function formatReport(results: readonly RowResult[]): string {
  const rows = [[...HEAD], ...results.map(cellsOf)];
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
