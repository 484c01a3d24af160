import { describe, expect, test } from "bun:test";
import {
  failoverLimits,
  LIVED_MS,
  RestartPolicy,
  SilenceWatch,
  silenceLimitMs,
} from "../../../../../src/operation/mount/holder/policy.ts";

describe("RestartPolicy", () => {
  test("replaces at once who had served, however often", () => {
    const policy = new RestartPolicy({ crashes: 2 });
    for (let now = 0; now < 50 * LIVED_MS; now += LIVED_MS) {
      policy.resumed(now);
      expect(policy.died(now + LIVED_MS)).toBe(0);
    }
  });

  test("waits longer each time that one dies before it has served, and gives up at the limit", () => {
    const policy = new RestartPolicy({ crashes: 8 });
    const waits = Array.from({ length: 8 }, (_, now) => policy.died(now));
    expect(waits).toEqual([100, 200, 400, 800, 1600, 2000, 2000, "give up"]);
  });

  test("counts who served for too short a time as one that did not", () => {
    const policy = new RestartPolicy({ crashes: 2 });
    policy.resumed(0);
    expect(policy.died(LIVED_MS - 1)).toBe(100);
    policy.resumed(1000);
    expect(policy.died(1000 + LIVED_MS - 1)).toBe("give up");
  });

  test("forgets deaths once one has served", () => {
    const policy = new RestartPolicy({ crashes: 2 });
    expect(policy.died(0)).toBe(100);
    policy.resumed(100);
    expect(policy.died(100 + LIVED_MS)).toBe(0);
    expect(policy.died(1000)).toBe(100);
  });
});

describe("SilenceWatch", () => {
  test("says for how long nothing was heard", () => {
    const watch = new SilenceWatch();
    expect([0, 1000, 2000].map((now) => watch.tick(now))).toEqual([0, 1000, 2000]);
    watch.heard();
    expect(watch.tick(3000)).toBe(1000);
  });

  test("does not count time in which it was stopped itself", () => {
    const watch = new SilenceWatch();
    watch.tick(0);
    expect(watch.tick(3_600_000)).toBe(2000);
  });
});

test("silenceLimitMs() is the shortest deadline and a margin, but never so short that a busy machine reaches it", () => {
  const limits = failoverLimits({});
  expect(silenceLimitMs(limits, [30_000, 10_000])).toBe(12_000);
  expect(silenceLimitMs(limits, [500])).toBe(7_000);
  expect(silenceLimitMs(failoverLimits({ NYDUS_FAILOVER_SILENCE_MS: "900" }), [30_000])).toBe(900);
});

test("failoverLimits() takes numbers from the environment, and nothing else", () => {
  const variables = { NYDUS_FAILOVER_START_MS: "20", NYDUS_FAILOVER_CRASHES: "2", NYDUS_FAILOVER_SILENCE_MS: "30" };
  expect(failoverLimits(variables)).toEqual({ startMs: 20, crashes: 2, silenceMs: 30 });
  const defaults = failoverLimits({});
  expect(
    failoverLimits({ NYDUS_FAILOVER_START_MS: "-1", NYDUS_FAILOVER_CRASHES: "", NYDUS_FAILOVER_SILENCE_MS: "x" }),
  ).toEqual(defaults);
});
