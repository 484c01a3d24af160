import { type Benchmark, type Figures, Missing, type Row, type RowResult, type Sides } from "./benchmark.ts";
import { Lab, type LabOptions } from "./lab.ts";
import { summarize } from "./statistics.ts";

/** What came of one benchmark: figures, or why there are none. */
export type Outcome =
  | { readonly kind: "measured"; readonly results: readonly RowResult[] }
  | { readonly kind: "skipped" | "failed"; readonly reason: string };

/** Figures of several runs, by row. */
type Collected = Map<string, number[]>;

function collect(into: Collected, figures: Figures): void {
  for (const [name, figure] of Object.entries(figures)) {
    const values = into.get(name) ?? [];
    values.push(figure);
    into.set(name, values);
  }
}

/**
 * Runs both sides in turn, so that what the machine does besides hits both alike; who begins changes each time, so that
 * neither always finds what the other has left behind.
 */
async function runInTurn(sides: Sides, runs: number): Promise<{ ours: Collected; peer: Collected }> {
  const ours: Collected = new Map();
  const peer: Collected = new Map();
  const turns = [
    async (): Promise<void> => collect(ours, await sides.ours()),
    async (): Promise<void> => collect(peer, (await sides.peer?.()) ?? {}),
  ];
  for (let i = 0; i < runs; i++) {
    for (const turn of i % 2 === 0 ? turns : turns.toReversed()) await turn();
  }
  return { ours, peer };
}

function resultOf(row: Row, benchmark: Benchmark, figures: { ours: Collected; peer: Collected }): RowResult[] {
  const ours = figures.ours.get(row.name);
  const peer = figures.peer.get(row.name);
  if (ours === undefined) return [];
  const named = { ...row, benchmark: benchmark.name, peerName: benchmark.peer, ours: summarize(ours) };
  return [peer === undefined ? named : { ...named, peer: summarize(peer) }];
}

/** Runs one benchmark; everything that it opened is gone when it returns. @throws only what aborts the whole */
export async function runBenchmark(benchmark: Benchmark, options: LabOptions, runs: number): Promise<Outcome> {
  try {
    await using lab = new Lab(options);
    const sides = await benchmark.prepare(lab);
    const figures = await runInTurn(sides, Math.max(1, Math.round(runs * (benchmark.runsFactor ?? 1))));
    return { kind: "measured", results: benchmark.rows.flatMap((row) => resultOf(row, benchmark, figures)) };
  } catch (error) {
    options.signal.throwIfAborted();
    if (error instanceof Missing) return { kind: "skipped", reason: error.message };
    return { kind: "failed", reason: error instanceof Error ? error.message : String(error) };
  }
}
