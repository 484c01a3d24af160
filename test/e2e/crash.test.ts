import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CrashImage, makeCrashImage } from "../kit/crash-image.ts";
import { type CrashOptions, complaintsOf, crashRound } from "../kit/crash-lab.ts";
import { canMountErofs } from "../kit/erofs-lab.ts";
import { canMount } from "../kit/mount-fixture.ts";
import { isBuilt } from "../kit/program.ts";

setDefaultTimeout(120_000);
const ROUND = { readers: 6, seed: 1 } as const;
const READ_TIMEOUT_MS = 5_000;

let dir: string;
let image: CrashImage;

const engines = (["fuse", "erofs"] as const).filter((engine) => engine === "fuse" || canMountErofs());

/** `scripts/soak crash` does the same for longer. */
describe.skipIf(!canMount || !isBuilt)("readers of a tree that is not there yet", () => {
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "nydus-crash-"));
    image = await makeCrashImage(dir, { seed: 1, bytes: 24 << 20, probes: 3 });
  });
  afterAll(async () => {
    await image?.[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  async function complaints(options: Omit<CrashOptions, "image" | "seed" | "readers">): Promise<string[]> {
    const whole = { ...ROUND, image, ...options };
    return complaintsOf(whole, await crashRound(whole));
  }

  describe.each(engines)("by %s", (engine) => {
    test("see right bytes though the daemon is killed three times", async () => {
      const options = { engine, harm: "kill", mappers: 2, times: 3, readTimeoutMs: READ_TIMEOUT_MS } as const;
      expect(await complaints(options)).toEqual([]);
    });

    test("see right bytes though the registry resets connections in the middle of answers", async () => {
      const options = { engine, harm: "reset", mappers: 2, times: 1, readTimeoutMs: READ_TIMEOUT_MS } as const;
      expect(await complaints(options)).toEqual([]);
    });

    test("get errors and no wrong byte while the disk is full, and right bytes when it is not", async () => {
      const options = { engine, harm: "full", mappers: 0, times: 1, readTimeoutMs: READ_TIMEOUT_MS } as const;
      expect(await complaints(options)).toEqual([]);
    });
  });
});
