import { expect, test } from "bun:test";
import { scratch } from "../kit/cache-lab.ts";
import { cutPower, powerCutMissing } from "../kit/power-cut.ts";

const missing = powerCutMissing();
const ROUNDS = 10;
const FIRST_SEED = 600;

test.skipIf(missing !== undefined)(
  `after a power cut all that a cache claims is true (${ROUNDS} rounds, seeds from ${FIRST_SEED})`,
  async () => {
    let claimed = 0;
    for (let seed = FIRST_SEED; seed < FIRST_SEED + ROUNDS; seed++) {
      using temp = scratch();
      const found = await cutPower({ dir: temp.dir, seed });
      expect({ seed, untrue: found.untrue }).toEqual({ seed, untrue: [] });
      claimed += found.claimed;
    }
    expect(claimed).toBeGreaterThan(ROUNDS); // it did claim something
  },
  120_000,
);

test.skipIf(missing !== undefined)(
  "a cache that lies about what is on the disk is found out by the same rounds",
  async () => {
    for (let seed = FIRST_SEED; seed < FIRST_SEED + ROUNDS; seed++) {
      using temp = scratch();
      const { untrue } = await cutPower({ dir: temp.dir, seed, liesAboutSync: true });
      if (untrue.length > 0) return;
    }
    throw new Error(`${ROUNDS} cuts, and no false claim`);
  },
  120_000,
);
