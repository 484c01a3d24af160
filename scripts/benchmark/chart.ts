import type { RowResult } from "./benchmark.ts";
import { formatAmount, formatMark, formatRatio } from "./format.ts";
import type { Results } from "./results.ts";

/** Measures of the drawing, in its own units. */
const WIDTH = 900;
const MARGIN = 16;
const BARS_X = 330;
const BARS_WIDTH = 280;
const RATIO_X = 884;
const HEAD_HEIGHT = 64;
const ROW_HEIGHT = 44;
const BAR_HEIGHT = 14;
const BAR_GAP = 3;
const LABEL_DY = 11;
/** More than the text behind a bar takes. */
const LABEL_WIDTH = 100;

/** Light unless the reader's system is dark; the texts are the same. */
const STYLE = `
    .page { fill: #ffffff } .text { fill: #1f2328 } .quiet { fill: #59636e } .ours { fill: #0969da } .peer { fill: #b3bcc7 }
    .target { stroke: #1f2328 } .missed { fill: #b35900 } .rule { stroke: #d1d9e0 }
    text { font: 13px system-ui, sans-serif } .head { font-weight: 600; font-size: 15px } .small { font-size: 11px }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 } .ours { fill: #4493f8 } .peer { fill: #545d68 }
      .target { stroke: #e6edf3 } .missed { fill: #e09b4a } .rule { stroke: #30363d }
    }
  `;

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("`", "");
}

interface TextOptions {
  readonly x: number;
  readonly y: number;
  readonly look?: string;
  readonly end?: boolean;
}

function text(content: string, { x, y, look = "text", end = false }: TextOptions): string {
  return `<text x="${x}" y="${y}" class="${look}"${end ? ' text-anchor="end"' : ""}>${escapeXml(content)}</text>`;
}

function bar(y: number, width: number, look: string): string {
  return `<rect x="${BARS_X}" y="${y}" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" rx="2" class="${look}"/>`;
}

/** The figure that ours must reach. */
function targetFigure({ target, peer }: RowResult): number | undefined {
  if (target === undefined) return undefined;
  if ("figure" in target) return target.figure;
  return peer && peer.median * target.ratio;
}

function drawRow(result: RowResult, y: number): string[] {
  const { title, unit, better, ours, peer, peerName } = result;
  const target = targetFigure(result);
  const most = Math.max(ours.median, peer?.median ?? 0, target ?? 0);
  const scale = (value: number): number => (most === 0 ? 0 : (value / most) * BARS_WIDTH);
  const end = scale(ours.median);
  const line = target === undefined ? 0 : scale(target);
  const labelX = BARS_X + (line >= end && line < end + LABEL_WIDTH ? line : end) + 6; // clear of the target's line
  const peerY = y + BAR_HEIGHT + BAR_GAP;
  const parts = [
    text(title, { x: MARGIN, y: y + LABEL_DY + 1 }),
    text(`${better} is better`, { x: MARGIN, y: peerY + LABEL_DY, look: "quiet small" }),
    bar(y, end, "ours"),
    text(formatAmount(ours.median, unit), { x: labelX, y: y + LABEL_DY, look: "text small" }),
  ];
  const ratio = formatRatio(result);
  if (ratio !== "") parts.push(text(ratio, { x: RATIO_X, y: y + LABEL_DY, end: true }));
  if (peer !== undefined) {
    const label = `${formatAmount(peer.median, unit)}  ${peerName}`;
    parts.push(bar(peerY, scale(peer.median), "peer"));
    parts.push(text(label, { x: BARS_X + scale(peer.median) + 6, y: peerY + LABEL_DY, look: "quiet small" }));
  }
  if (target !== undefined) {
    const x = (BARS_X + line).toFixed(1);
    parts.push(
      `<line x1="${x}" x2="${x}" y1="${y - 2}" y2="${y + BAR_HEIGHT + 2}" class="target" stroke-width="1.5"/>`,
    );
  }
  const mark = formatMark(result);
  const look = mark === "MISSED" ? "missed small" : "quiet small";
  if (mark !== "")
    parts.push(text(`target ${mark.toLowerCase()}`, { x: RATIO_X, y: peerY + LABEL_DY, look, end: true }));
  return parts;
}

function drawHead({ surroundings, date, runs }: Results): string[] {
  const versions = Object.entries(surroundings.versions).slice(0, 2);
  const subject = versions.map(([name, version]) => `${name} ${version}`).join(" beside ");
  const machine = `${surroundings.cpu}, ${surroundings.cores} cores, Linux ${surroundings.kernel}`;
  return [
    text(subject, { x: MARGIN, y: 24, look: "text head" }),
    text(`${machine}; medians of ${runs} runs in turn, ${date.slice(0, 10)}; a line marks the target`, {
      x: MARGIN,
      y: 44,
      look: "quiet small",
    }),
    `<line x1="${MARGIN}" x2="${RATIO_X}" y1="54" y2="54" class="rule"/>`,
  ];
}

/** The results as an SVG drawing, with all figures in it, for light and dark pages. */
export function drawChart(results: Results): string {
  const height = HEAD_HEIGHT + results.rows.length * ROW_HEIGHT + MARGIN / 2;
  const rows = results.rows.flatMap((row, i) => drawRow(row, HEAD_HEIGHT + 4 + i * ROW_HEIGHT));
  const parts = [`<rect width="${WIDTH}" height="${height}" class="page"/>`, ...drawHead(results), ...rows];
  const label = 'role="img" aria-label="Benchmark results"';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" ${label}>
  <style>${STYLE}</style>
  ${parts.join("\n  ")}
</svg>
`;
}
