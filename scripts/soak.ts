import { scratch } from "../test/kit/cache-lab.ts";
import { runModel } from "../test/kit/containerd-model.ts";
import { compareWithOverlayfs, overlayMissing } from "../test/kit/overlay-oracle.ts";
import { findContainerds, missingPeers } from "../test/kit/peers.ts";
import { cutPower, powerCutMissing } from "../test/kit/power-cut.ts";
import { crashAll, crashMissing } from "./soak-crash.ts";
import { mountManyFiles, mountMissing } from "./soak-files.ts";

/** One long run; returns whether all was well. */
interface Soak {
  readonly usage: string;
  readonly meaning: string;
  run(args: readonly string[]): Promise<boolean>;
}

/** Stacks compared between two lines of progress. */
const STEP = 500;

const SOAKS: Readonly<Record<string, Soak>> = {
  overlay: {
    usage: "overlay [COUNT [FIRST_SEED]]",
    meaning: "merge COUNT (10000) generated layer stacks and compare them with the kernel's overlayfs",
    run: soakOverlay,
  },
  "power-cut": {
    usage: "power-cut [ROUNDS [FIRST_SEED]]",
    meaning: "cut the power of a disk with a cache on it ROUNDS (200) times and compare all that the cache claims",
    run: soakPowerCut,
  },
  containerd: {
    usage: "containerd [COUNT [FIRST_SEED]]",
    meaning: "do COUNT (3000) random operations with real containerds, 300 to a seed, and compare with a model",
    run: soakContainerd,
  },
  crash: {
    usage: "crash [HARMS [FIRST_SEED]]",
    meaning: "kill the daemon HARMS (50) times under 16 readers, on each engine; also stop it, reset it, fill its disk",
    run: soakCrash,
  },
  files: {
    usage: "files [COUNT]",
    meaning: "mount and list an image of COUNT (1000000) files by each engine: seconds, and memory of the daemon's own",
    run: soakFiles,
  },
};

async function soakCrash(args: readonly string[]): Promise<boolean> {
  const missing = crashMissing();
  if (missing !== undefined) throw new Error(`nothing can be mounted here: ${missing}`);
  return await crashAll({ harms: numberOf(args[0], 50), firstSeed: numberOf(args[1], 1) });
}

async function soakFiles(args: readonly string[]): Promise<boolean> {
  const missing = mountMissing();
  if (missing !== undefined) throw new Error(`nothing can be mounted here: ${missing}`);
  return await mountManyFiles(numberOf(args[0], 1_000_000));
}

async function soakOverlay(args: readonly string[]): Promise<boolean> {
  const missing = overlayMissing();
  if (missing !== undefined) throw new Error(`overlayfs cannot be asked here: ${missing}`);
  const count = numberOf(args[0], 10_000);
  const first = numberOf(args[1], 1);
  let differing = 0;
  for (let done = 0; done < count; done += STEP) {
    const step = Math.min(STEP, count - done);
    const differences = await compareWithOverlayfs(first + done, step);
    for (const line of differences) console.log(line);
    differing += differences.length;
    console.log(`${done + step} of ${count} stacks, ${differing} differences`);
  }
  return differing === 0;
}

/** Rounds between two lines of progress. */
const POWER_CUT_STEP = 20;

async function soakPowerCut(args: readonly string[]): Promise<boolean> {
  const missing = powerCutMissing();
  if (missing !== undefined) throw new Error(`no power can be cut here: ${missing}`);
  const rounds = numberOf(args[0], 200);
  const first = numberOf(args[1], 1);
  let [claimed, untrue] = [0, 0];
  for (let round = 0; round < rounds; round++) {
    using temp = scratch();
    const found = await cutPower({ dir: temp.dir, seed: first + round });
    claimed += found.claimed;
    untrue += found.untrue.length;
    for (const chunk of found.untrue) console.log(`seed ${first + round}: chunk ${chunk} is not what it claims to be`);
    const done = round + 1;
    if (done % POWER_CUT_STEP === 0 || done === rounds) {
      console.log(`${done} of ${rounds} power cuts, ${claimed} chunks claimed, ${untrue} of them untrue`);
    }
  }
  return untrue === 0;
}

/** Operations of one seed, with one containerd; everything is removed after them. */
const CONTAINERD_STEP = 300;

async function soakContainerd(args: readonly string[]): Promise<boolean> {
  const containerds = findContainerds().reverse();
  const missing = missingPeers();
  if (missing.length > 0)
    throw new Error(`no containerd can be run here (scripts/peers): ${missing.join(", ")} missing`);
  const count = numberOf(args[0], 3_000);
  const first = numberOf(args[1], 1);
  let failed = 0;
  let reads = 0;
  for (let at = 0; at * CONTAINERD_STEP < count; at++) {
    const containerd = containerds[at % containerds.length];
    if (containerd === undefined) throw new Error("there is no containerd");
    const step = Math.min(CONTAINERD_STEP, count - at * CONTAINERD_STEP);
    try {
      reads += (await runModel({ containerd, seed: first + at, count: step })).reads;
    } catch (error) {
      failed++;
      console.log(String(error));
    }
    const done = at * CONTAINERD_STEP + step;
    console.log(`${done} of ${count} operations, ${reads} reads compared, ${failed} seeds failed (${containerd.name})`);
  }
  return failed === 0;
}

function numberOf(text: string | undefined, otherwise: number): number {
  const number = Number(text ?? otherwise);
  if (!Number.isSafeInteger(number) || number < 1) throw new Error(`${text} is not a number from 1`);
  return number;
}

const [name = "", ...args] = process.argv.slice(2);
const soak = SOAKS[name];
if (soak === undefined) {
  const lines = Object.values(SOAKS).map(({ usage, meaning }) => `  ${usage.padEnd(30)} ${meaning}\n`);
  process.stderr.write(`usage: scripts/soak NAME [ARGUMENT...]\n${lines.join("")}`);
  process.exit(2);
}
process.exit((await soak.run(args)) ? 0 : 1);
