import { scratch } from "../test/kit/cache-lab.ts";
import { type CrashImage, makeCrashImage } from "../test/kit/crash-image.ts";
import { type CrashOptions, type CrashResult, complaintsOf, crashRound, type Harm } from "../test/kit/crash-lab.ts";
import { canMountErofs } from "../test/kit/erofs-lab.ts";
import { mountMissing } from "./soak-files.ts";

const ENGINES = ["fuse", "erofs"] as const;
const IMAGE = { seed: 1, bytes: 48 << 20, probes: 8 };
const READERS = 16;
const MAPPERS = 4;
const READ_TIMEOUT_MS = 5_000;
/** A stopped daemon comes back after 5 s. */
const STOPPED_TIMEOUT_MS = 15_000;
/** What the middle of all recoveries may take. */
const RECOVERY_MS = 2_000;

/** How often a harm is done to one mount, and what part of all harms there are of its kind. */
const HARMS: Readonly<Record<Harm, { readonly each: number; readonly part: number }>> = {
  kill: { each: 5, part: 1 },
  stop: { each: 1, part: 0.1 },
  reset: { each: 1, part: 0.2 },
  full: { each: 1, part: 0.1 },
};

/** Why this soak cannot run here; undefined when it can. */
export function crashMissing(): string | undefined {
  return mountMissing() ?? (canMountErofs() ? undefined : "the kernel does not mount by EROFS here");
}

/** Does every harm on every engine, and prints what came of it. @returns whether every promise held */
export async function crashAll(plan: { readonly harms: number; readonly firstSeed: number }): Promise<boolean> {
  using temp = scratch();
  await using image = await makeCrashImage(temp.dir, IMAGE);
  let isWell = true;
  for (const harm of Object.keys(HARMS) as Harm[]) {
    for (const engine of ENGINES) isWell = (await crashSome(image, { ...plan, engine, harm })) && isWell;
  }
  return isWell;
}

interface Plan {
  readonly engine: "fuse" | "erofs";
  readonly harm: Harm;
  readonly harms: number;
  readonly firstSeed: number;
}

async function crashSome(image: CrashImage, { engine, harm, harms, firstSeed }: Plan): Promise<boolean> {
  const { each, part } = HARMS[harm];
  const rounds = Math.max(1, Math.round((harms * part) / each));
  const results: CrashResult[] = [];
  let complaints = 0;
  for (let round = 0; round < rounds; round++) {
    const seed = firstSeed + round;
    const mappers = harm === "full" ? 0 : MAPPERS; // what cannot be brought ends who has it mapped
    const readTimeoutMs = harm === "stop" ? STOPPED_TIMEOUT_MS : READ_TIMEOUT_MS;
    const options: CrashOptions = { image, engine, harm, seed, readers: READERS, mappers, times: each, readTimeoutMs };
    const result = await crashRound(options);
    results.push(result);
    for (const complaint of complaintsOf(options, result)) {
      complaints++;
      console.log(`${engine}, ${harm}, seed ${seed}: ${complaint}`);
    }
  }
  const recoveries = results.flatMap(({ recoveriesMs }) => recoveriesMs).sort((a, b) => a - b);
  const median = recoveries[recoveries.length >> 1] ?? 0;
  const failed = results.reduce((sum, { errors }) => sum + Object.values(errors).reduce((a, b) => a + b, 0), 0);
  const slowest = Math.max(...results.map(({ slowestMs }) => slowestMs));
  console.log(
    `${engine}, ${harm}: ${recoveries.length} times, ${failed} failed reads (at most ` +
      `${Math.max(...results.map(({ errorsOfOne }) => errorsOfOne))} of one reader in a mount), slowest file ` +
      `${seconds(slowest)}, recovery ${seconds(median)} (median), ${seconds(recoveries.at(-1) ?? 0)} (longest); ` +
      `${complaints} complaints`,
  );
  // A stopped daemon is back when it is let go on, a full disk when there is room.
  const isQuick = harm === "stop" || harm === "full" || median < RECOVERY_MS;
  return complaints === 0 && isQuick;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}
