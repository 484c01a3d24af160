import { describe, expect, test } from "bun:test";
import { runModel } from "../kit/containerd-model.ts";
import { findContainerds, missingPeers } from "../kit/peers.ts";

const SEED = 1;
/** Steps with the newest containerd, and with an older one: all calls of it are the same. */
const STEPS_NEWEST = 300;
const STEPS_OTHERS = 100;

const newest = findContainerds().at(-1);
const RUNS = findContainerds().map((containerd) => ({
  name: containerd.name,
  containerd,
  count: containerd.name === newest?.name ? STEPS_NEWEST : STEPS_OTHERS,
}));

describe.skipIf(missingPeers().length > 0)("pulls, runs, removals, restarts and kills as they come", () => {
  test.each(RUNS)(
    "$count of them with $name: nothing in use is lost, nothing unused is kept",
    async ({ containerd, count }) => {
      const { done, reads } = await runModel({ containerd, seed: SEED, count });
      expect(done.size).toBeGreaterThan(15);
      expect(reads).toBeGreaterThan(count / 2);
    },
  );
});
