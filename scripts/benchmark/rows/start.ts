import type { Benchmark } from "../benchmark.ts";

const MS = 1000;

/** From nothing to a printed version. */
export const start: Benchmark = {
  name: "start",
  peer: "nydusd",
  runsFactor: 4,
  rows: [{ name: "start", title: "Start: --version", unit: "ms", better: "less", target: { figure: 50 } }],
  prepare: async (lab) => {
    const { peers } = lab.options;
    return {
      ours: async () => ({ start: (await lab.run([lab.nydus, "--version"])).seconds * MS }),
      peer: peers && (async () => ({ start: (await lab.run([peers.nydusd, "--version"])).seconds * MS })),
    };
  },
};
