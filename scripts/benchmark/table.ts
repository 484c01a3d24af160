import type { Benchmark } from "./benchmark.ts";
import { blobSize } from "./rows/blob-size.ts";
import { coldStart, coldStartErofs } from "./rows/cold-start.ts";
import { containerdMemory } from "./rows/containerd-memory.ts";
import { containerdRun, containerdRunOci } from "./rows/containerd-run.ts";
import { convertCores, convertImage, convertLayer } from "./rows/convert.ts";
import { coreSpeed } from "./rows/core-speed.ts";
import { erofsPlain, erofsRead } from "./rows/erofs-mount.ts";
import { memory } from "./rows/memory.ts";
import { mountFio } from "./rows/mount-fio.ts";
import { mountRead } from "./rows/mount-read.ts";
import { pull } from "./rows/pull.ts";
import { start } from "./rows/start.ts";

/** All benchmarks, in the order in which they run and are shown. */
export const BENCHMARKS: readonly Benchmark[] = [
  convertLayer,
  convertImage,
  convertCores,
  blobSize,
  mountRead,
  mountFio,
  coldStart,
  erofsRead,
  erofsPlain,
  coldStartErofs,
  containerdRun,
  containerdRunOci,
  containerdMemory,
  pull,
  memory,
  start,
  coreSpeed,
];

/**
 * The benchmarks that names ask for: their own, or those of their rows.
 * @param names none: all
 * @throws for a name that nothing has
 */
export function chooseBenchmarks(names: readonly string[]): readonly Benchmark[] {
  const matches = (benchmark: Benchmark, name: string): boolean =>
    benchmark.name === name || benchmark.rows.some((row) => row.name === name);
  const unknown = names.find((name) => !BENCHMARKS.some((benchmark) => matches(benchmark, name)));
  if (unknown !== undefined) throw new Error(`${unknown} is no benchmark; --list names them`);
  return names.length === 0 ? BENCHMARKS : BENCHMARKS.filter((one) => names.some((name) => matches(one, name)));
}
