import { concatBytes, keyOfBytes } from "../../src/base/bytes.ts";
import type { TarEntryType } from "../../src/format/tar/reader.ts";
import { type TarMember, writeTar } from "../../src/format/tar/writer.ts";
import { LayerDraft } from "./layer-draft.ts";
import { Random } from "./random.ts";

/** A stack of layers made from a seed. */
export interface LayerStack {
  readonly seed: number;
  /** Tars, the bottom layer first. */
  readonly layers: readonly Uint8Array[];
}

/** A whole archive in memory. */
export async function tarBytes(members: readonly TarMember[]): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of writeTar(members)) pieces.push(piece);
  return concatBytes(pieces);
}

/**
 * Two to five layers with what is hard in merging: whiteouts beside files of the same name in either order, opaque
 * markers before and after files, every type replaced by every other, parents without entries, symlinks in the way,
 * hard links within layers and to lower ones, deep and long and raw names, xattrs, ids, times and devices, and layers
 * of nothing. Every layer is one that containerd's applier would take: it lists no child of its own files.
 */
export async function makeLayerStack(seed: number): Promise<LayerStack> {
  const random = new Random(seed);
  const count = random.between(2, 5);
  const layers: Uint8Array[] = [];
  let lower: ReadonlyMap<string, TarEntryType> = new Map();
  for (let i = 0; i < count; i++) {
    const draft = new LayerDraft(random, lower);
    const steps = random.chance(0.08) ? 0 : random.between(3, 24);
    for (let step = 0; step < steps; step++) addSomething(draft, random);
    layers.push(await tarBytes(draft.members));
    lower = draft.visible();
  }
  return { seed, layers };
}

const PLAIN_NAMES = ["a", "b", "c", "d", "e"];

const ODD_NAMES: readonly string[] = [
  "n".repeat(255),
  "w".repeat(252),
  "w".repeat(251),
  keyOfBytes(new TextEncoder().encode("ünï-文件")),
  "raw\xff\xfe",
  "new\nline",
  "-dash",
  " sp ace ",
  ".hidden",
  "..dots",
  "wh.x",
];

function aName(random: Random): string {
  return random.chance(0.88) ? random.pick(PLAIN_NAMES) : random.pick(ODD_NAMES);
}

/** A directory to put something into: mostly one that some layer has, else any path. */
function aDir(draft: LayerDraft, random: Random): string[] {
  const dirs = draft.directories();
  const base = random.chance(0.7) && dirs.length > 0 ? random.pick(dirs).split("/") : [];
  const extra = random.chance(0.02) ? 40 : random.pick([0, 0, 0, 1, 2]);
  for (let i = 0; i < extra; i++) base.push(aName(random));
  return base;
}

function aPath(draft: LayerDraft, random: Random): string {
  const known = draft.known();
  if (known.length > 0 && random.chance(0.4)) return random.pick(known);
  return [...aDir(draft, random), aName(random)].join("/");
}

/** What a layer is made of, by how often. */
const STEPS: readonly [weight: number, step: (draft: LayerDraft, random: Random) => void][] = [
  [24, (draft, random) => draft.file(aPath(draft, random))],
  [18, (draft, random) => draft.dir(aPath(draft, random))],
  [8, (draft, random) => draft.symlink(aPath(draft, random))],
  [6, (draft, random) => draft.special(aPath(draft, random))],
  [10, (draft, random) => draft.hardLink(aPath(draft, random))],
  [8, (draft, random) => draft.lowerHardLink(aPath(draft, random))],
  [14, (draft, random) => draft.whiteout(aPath(draft, random))],
  [
    6,
    (draft, random) => {
      const path = aPath(draft, random); // the whiteout and what it must not hide, in either order
      const add = random.pick([() => draft.file(path), () => draft.dir(path), () => draft.symlink(path)]);
      for (const step of random.chance(0.5) ? [add] : [() => draft.whiteout(path), add]) step();
      draft.whiteout(path);
    },
  ],
  [6, (draft, random) => draft.opaque(aDir(draft, random).join("/"))],
  [3, (draft, random) => draft.throughSymlink(aDir(draft, random).join("/"), aName(random))],
  [2, (draft) => draft.root()],
  [2, (draft, random) => draft.whiteoutNode(aPath(draft, random))],
  [1, (draft, random) => draft.aufsFile(aDir(draft, random).join("/"))],
];

const TOTAL_WEIGHT = STEPS.reduce((sum, [weight]) => sum + weight, 0);

function addSomething(draft: LayerDraft, random: Random): void {
  let ticket = random.below(TOTAL_WEIGHT);
  for (const [weight, step] of STEPS) {
    ticket -= weight;
    if (ticket < 0) {
      step(draft, random);
      return;
    }
  }
}
