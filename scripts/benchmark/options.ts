import { parseArgs } from "node:util";

/** What the command line asks for. */
export interface BenchOptions {
  readonly only: readonly string[];
  readonly runs: number;
  readonly image: string | undefined;
  readonly nydus: string;
  readonly json: string | undefined;
  readonly docs: boolean;
  readonly from: string | undefined;
  readonly list: boolean;
  readonly help: boolean;
}

const DEFAULT_RUNS = 5;
const MAX_RUNS = 100;

export const USAGE = `usage: scripts/bench [OPTION...]
       scripts/bench proxy --upstream PORT [--port PORT] [--mbit N] [--ms N]

Measures this program beside nydus-image, nydusd and skopeo, in turn. As root for mounts.

  --only NAME          only this benchmark or figure; may be repeated
  --runs N             runs of each side (5)
  --image oci:DIR:REF  an image of gzip layers in the place of the one that is made
  --nydus FILE         the program (dist/nydus)
  --json FILE          also write the results there
  --docs               also write docs/benchmark.md and docs/benchmark.svg; for a whole run on a quiet machine
  --from FILE          measure nothing, show the results in FILE (and with --docs write the page)
  --list               name the benchmarks and their figures

PEERS=DIR             DIR/bin has nydus-image and nydusd (dist/peers; installed by cargo when missing)
NYDUS_BENCH_DIR=DIR   where the image is kept and work is done (dist/bench)

proxy: passes TCP connections on to a port of this machine, as slowly as a link would (400 Mbit/s, 10 ms a round trip).
`;

/** A whole number from 1. @throws */
function parseCount(name: string, given: string, most: number): number {
  const count = Number(given);
  if (Number.isInteger(count) && count >= 1 && count <= most) return count;
  throw new Error(`--${name} ${given} is not a number from 1 to ${most}`);
}

/** @throws for unknown options and bad values */
export function parseBenchOptions(args: readonly string[], root: string): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string", multiple: true, default: [] },
      runs: { type: "string", default: `${DEFAULT_RUNS}` },
      image: { type: "string" },
      nydus: { type: "string", default: `${root}/dist/nydus` },
      json: { type: "string" },
      docs: { type: "boolean", default: false },
      from: { type: "string" },
      list: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const { image, json, from, ...rest } = values;
  return { ...rest, image, json, from, runs: parseCount("runs", values.runs, MAX_RUNS) };
}

/** The proxy as its command line asks for it. */
export interface ProxyOptions {
  readonly upstream: number;
  readonly port: number;
  readonly bitsPerSecond: number;
  readonly roundTripMs: number;
}

const MAX_PORT = 65535;
const MBIT = 1e6;

/** @throws for unknown options and bad values */
export function parseProxyOptions(args: readonly string[]): ProxyOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      upstream: { type: "string" },
      port: { type: "string" },
      mbit: { type: "string", default: "400" },
      ms: { type: "string", default: "10" },
    },
  });
  if (values.upstream === undefined) throw new Error("proxy: --upstream PORT is missing");
  return {
    upstream: parseCount("upstream", values.upstream, MAX_PORT),
    port: values.port === undefined ? 0 : parseCount("port", values.port, MAX_PORT),
    bitsPerSecond: parseCount("mbit", values.mbit, 100_000) * MBIT,
    roundTripMs: parseCount("ms", values.ms, 10_000),
  };
}
