import { GOLDEN_IMAGES, type GoldenImage } from "./containerd-images.ts";
import { ContainerdWorld, type ModelContainer } from "./containerd-world.ts";
import type { Containerd } from "./peers.ts";
import { Random } from "./random.ts";

const CONTAINERS_MAX = 5;
const KILL_WITHIN_MS = 600;
const TOGETHER = 3;
/** Steps before a failure that are tried alone, the fewest first. */
const TAILS = [5, 15, 40];
const PROGRESS_STEPS = 50;

/**
 * One step: what is done, and a number that everything else about it is chosen by, among what is there when it is done.
 * So a list of steps can be cut anywhere and be done again.
 */
export interface ModelStep {
  readonly kind: StepKind;
  readonly word: number;
}

/** What a step is done with. */
interface Scene {
  readonly world: ContainerdWorld;
  readonly random: Random;
}

/** A kind of step: how often it is drawn, and how it is done. @returns what was done; undefined where nothing could be */
interface StepRule {
  readonly weight: number;
  perform(scene: Scene): Promise<string | undefined>;
}

const RULES = {
  pull: { weight: 12, perform: pull },
  run: { weight: 22, perform: run },
  exec: { weight: 12, perform: exec },
  write: { weight: 8, perform: write },
  kill: { weight: 7, perform: kill },
  start: { weight: 8, perform: start },
  remove: { weight: 10, perform: remove },
  rmi: { weight: 6, perform: ({ world, random }: Scene) => removeImage({ world, random }, "rmi") },
  untag: { weight: 3, perform: ({ world, random }: Scene) => removeImage({ world, random }, "untag") },
  together: { weight: 3, perform: together },
  cleanup: { weight: 3, perform: cleanup },
  registry: { weight: 4, perform: toggleRegistry },
  "restart snapshotter": { weight: 3, perform: ({ world }: Scene) => restart(world, "snapshotter", "SIGTERM") },
  "kill snapshotter": { weight: 4, perform: ({ world }: Scene) => restart(world, "snapshotter", "SIGKILL") },
  "kill daemon": { weight: 4, perform: killDaemon },
  "restart containerd": { weight: 2, perform: ({ world }: Scene) => restart(world, "containerd", "SIGTERM") },
  "kill containerd": { weight: 2, perform: ({ world }: Scene) => restart(world, "containerd", "SIGKILL") },
  "kill amid": { weight: 5, perform: killAmid },
} satisfies Record<string, StepRule>;

type StepKind = keyof typeof RULES;

async function pull({ world, random }: Scene): Promise<string> {
  const image = random.pick(GOLDEN_IMAGES);
  await world.pull(image);
  return `pull ${image}${world.isRegistryUp ? "" : ", which fails: the registry is down"}`;
}

async function run({ world, random }: Scene): Promise<string | undefined> {
  const images = startable(world);
  if (images.length === 0 || world.containers.size >= CONTAINERS_MAX) return undefined;
  const image = random.pick(images);
  await world.run(image);
  return `run ${image}`;
}

async function exec({ world, random }: Scene): Promise<string | undefined> {
  const container = pickContainer({ world, random }, ({ isRunning }) => isRunning);
  if (container === undefined) return undefined;
  await world.exec(container, random);
  return `exec in ${nameOf(container)}`;
}

async function write({ world, random }: Scene): Promise<string | undefined> {
  const container = pickContainer({ world, random }, ({ isRunning }) => isRunning);
  if (container === undefined) return undefined;
  await world.write(container, String(random.word()));
  return `write in ${nameOf(container)}`;
}

async function kill({ world, random }: Scene): Promise<string | undefined> {
  const container = pickContainer({ world, random }, ({ isRunning }) => isRunning);
  if (container === undefined) return undefined;
  await world.kill(container);
  return `kill ${nameOf(container)}`;
}

async function start({ world, random }: Scene): Promise<string | undefined> {
  const canStart = ({ isRunning, image }: ModelContainer): boolean => !isRunning && world.canReadForStart(image);
  const container = pickContainer({ world, random }, canStart);
  if (container === undefined) return undefined;
  await world.start(container);
  return `start ${nameOf(container)}`;
}

async function remove({ world, random }: Scene): Promise<string | undefined> {
  const container = pickContainer({ world, random }, () => true);
  if (container === undefined) return undefined;
  await world.remove(container);
  return `rm -f ${nameOf(container)}`;
}

async function removeImage({ world, random }: Scene, how: "rmi" | "untag"): Promise<string | undefined> {
  if (world.pulled.size === 0) return undefined;
  const image = random.pick([...world.pulled]);
  const isRefused = how === "rmi" && world.isUsed(image);
  await world.removeImage(image, how);
  return `${how} ${image}${isRefused ? ", which fails: it has containers" : ""}`;
}

async function cleanup({ world }: Scene): Promise<string> {
  await world.cleanup();
  return "Cleanup";
}

async function toggleRegistry({ world }: Scene): Promise<string> {
  await world.setRegistry(!world.isRegistryUp);
  return `registry ${world.isRegistryUp ? "starts" : "stops"}`;
}

async function restart(
  world: ContainerdWorld,
  server: "snapshotter" | "containerd",
  signal: "SIGTERM" | "SIGKILL",
): Promise<string> {
  await world.restart(server, signal);
  return `${signal} to ${server}, and start`;
}

async function killDaemon({ world }: Scene): Promise<string> {
  await world.killDaemon();
  return "SIGKILL to the mount daemon";
}

/** Containers are started and removed at once. */
async function together({ world, random }: Scene): Promise<string | undefined> {
  const images = startable(world);
  if (images.length === 0) return undefined;
  const chosen = Array.from({ length: TOGETHER }, () => random.pick(images));
  const old = pickContainer({ world, random }, () => true);
  const results = await Promise.allSettled([
    ...chosen.map((image) => world.run(image)),
    ...(old === undefined ? [] : [world.remove(old)]),
  ]);
  for (const result of results) if (result.status === "rejected") throw result.reason;
  const fresh = [...world.containers.values()].slice(-TOGETHER);
  await Promise.all(fresh.slice(1).map((container) => world.remove(container)));
  return `at once: run ${chosen.join(", ")}${old === undefined ? "" : `, rm -f ${nameOf(old)}`}; rm -f two of them`;
}

/** A server dies while something is done, and is started again. */
async function killAmid({ world, random }: Scene): Promise<string> {
  await world.setRegistry(true);
  const victim = random.pick(["snapshotter", "snapshotter", "containerd", "daemon"] as const);
  const image = random.pick(GOLDEN_IMAGES);
  const old = pickContainer({ world, random }, () => true);
  const delayMs = random.below(KILL_WITHIN_MS);
  const doings = {
    pull: () => world.host.nerdctl("pull", "-q", world.reference(image)),
    run: () => world.run(image),
    rmi: () => world.host.nerdctl("rmi", "-f", world.reference(image)),
    rm: (): Promise<unknown> => (old === undefined ? Promise.resolve() : world.host.nerdctl("rm", "-f", old.id)),
  };
  const doing = world.pulled.has(image) ? random.pick(["pull", "run", "rmi", "rm"] as const) : "pull";
  const die = async (): Promise<void> => {
    await Bun.sleep(delayMs);
    if (victim === "daemon") await world.killDaemon();
    else await world.restart(victim, "SIGKILL");
  };
  await world.settle(doings[doing](), die(), doing === "rm" ? old : undefined);
  if (victim === "daemon") world.daemonDied(); // what was started meanwhile may have been mounted by either
  const what = doing === "rm" ? `rm -f ${old === undefined ? "nothing" : nameOf(old)}` : `${doing} ${image}`;
  return `SIGKILL to ${victim} ${delayMs} ms after the beginning of: ${what}`;
}

function startable(world: ContainerdWorld): GoldenImage[] {
  return GOLDEN_IMAGES.filter((image) => world.canStart(image));
}

function pickContainer(
  { world, random }: Scene,
  isFit: (container: ModelContainer) => boolean,
): ModelContainer | undefined {
  const fit = [...world.containers.values()].filter(isFit);
  return fit.length === 0 ? undefined : random.pick(fit);
}

function nameOf({ id, image }: ModelContainer): string {
  return `${id.slice(0, 6)} of ${image}`;
}

/** The steps of a seed. */
export function drawSteps(seed: number, count: number): ModelStep[] {
  const random = new Random(seed);
  const kinds = Object.keys(RULES) as StepKind[];
  const bag = kinds.flatMap((kind) => Array.from({ length: RULES[kind].weight }, () => kind));
  return Array.from({ length: count }, () => ({ kind: random.pick(bag), word: random.word() }));
}

/** What a run of the model is made of. */
export interface ModelRun {
  readonly containerd: Containerd;
  readonly seed: number;
  readonly count: number;
  /** Hears of progress. */
  readonly log?: (line: string) => void;
}

/** What a run has done. */
export interface ModelReport {
  /** Steps that did something, by kind. */
  readonly done: ReadonlyMap<string, number>;
  /** Files that were read and compared. */
  readonly reads: number;
}

/**
 * Does random steps with a real containerd, and compares it with the model after each; at the end everything is removed.
 * @throws Error with the seed and what was done, and the fewest last steps that fail alone, where some do
 */
export async function runModel({ containerd, seed, count, log = () => undefined }: ModelRun): Promise<ModelReport> {
  const steps = drawSteps(seed, count);
  const played = await play(containerd, steps, log);
  if (played.failure === undefined) return played;
  const tail = await shortestTail(containerd, steps.slice(0, played.taken));
  const heading = `seed ${seed}, ${containerd.name}, step ${played.taken} of ${count}: ${played.failure}`;
  throw new Error([heading, "what was done:", ...played.story, tail].join("\n"));
}

/** How a list of steps went. */
interface Played extends ModelReport {
  readonly story: readonly string[];
  /** Steps taken, the failing one included. */
  readonly taken: number;
  readonly failure: string | undefined;
}

async function play(containerd: Containerd, steps: readonly ModelStep[], log: (line: string) => void): Promise<Played> {
  await using world = await ContainerdWorld.open(containerd);
  const story: string[] = [];
  const done = new Map<string, number>();
  let taken = 0;
  try {
    for (const { kind, word } of steps) {
      taken++;
      const random = new Random(word);
      story.push(`${taken}. ${kind}`);
      const what = await RULES[kind].perform({ world, random });
      story[story.length - 1] = what === undefined ? `${taken}. (${kind}: nothing to do)` : `${taken}. ${what}`;
      if (what !== undefined) done.set(kind, (done.get(kind) ?? 0) + 1);
      await world.check(random);
      if (taken % PROGRESS_STEPS === 0) log(`${taken} of ${steps.length} steps, ${world.reads} reads`);
    }
    story.push("remove everything");
    await world.end();
    return { story, done, taken, reads: world.reads, failure: undefined };
  } catch (error) {
    return { story, done, taken, reads: world.reads, failure: String(error) };
  }
}

async function shortestTail(containerd: Containerd, steps: readonly ModelStep[]): Promise<string> {
  for (const length of TAILS.filter((one) => one < steps.length)) {
    const { failure, story } = await play(containerd, steps.slice(-length), () => undefined);
    if (failure !== undefined) return [`the last ${length} steps alone: ${failure}`, ...story].join("\n");
  }
  return "the last steps alone do not fail";
}
