import { compareWithOverlayfs, overlayMissing } from "../test/kit/overlay-oracle.ts";

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
};

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
