import { readFileSync } from "node:fs";
import type { RowResult } from "./benchmark.ts";
import type { Surroundings } from "./machine.ts";

/** The image that was measured with. */
export interface ImageFacts {
  readonly name: string;
  readonly layers: readonly { readonly gzipBytes: number; readonly tarBytes: number }[];
}

/** Everything that one run of the benchmark found, as its JSON file holds it. */
export interface Results {
  readonly date: string;
  readonly runs: number;
  readonly image: ImageFacts;
  readonly surroundings: Surroundings;
  readonly rows: readonly RowResult[];
  /** Benchmarks without figures, and why. */
  readonly without: readonly { readonly name: string; readonly reason: string }[];
}

/** Reads a results file. @throws when it is none */
export function readResults(path: string): Results {
  const results = JSON.parse(readFileSync(path, "utf8")) as Partial<Results>;
  if (!Array.isArray(results.rows) || results.surroundings === undefined) {
    throw new Error(`${path} holds no results of this benchmark`);
  }
  return results as Results;
}
