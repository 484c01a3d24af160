import { closeSync } from "node:fs";
import type { ByteRange } from "../../../base/bytes.ts";
import { answerEvent, type FanotifyGroup } from "../../../os/fanotify.ts";
import { libc } from "../../../os/syscall.ts";
import type { HolderClient } from "../holder/client.ts";
import type { MarkedFile } from "./file.ts";
import { JOURNAL_KIND, type JournaledEvent, type JournalView, openJournal } from "./journal.ts";

const EIO = 5;
/** Numbers below this one are swept at least, and so many above the highest one that was seen. */
const LEAST_SWEPT = 1024;
const SWEPT_BEHIND = 64;

/** All that was noted about one number of a descriptor. */
interface Unanswered {
  readonly fd: number;
  readonly events: readonly JournaledEvent[];
  /** The number, taken so that nothing else gets it; undefined where something else had it before. */
  readonly place: number | undefined;
}

interface OldJournal {
  readonly key: string;
  readonly fd: number | undefined;
  readonly view: JournalView;
}

/**
 * Reads that a dead process has taken from the kernel and not answered. They are known by the numbers that their
 * descriptors had there, so no new event may have the same number here while one of them waits.
 */
export class ErofsTakeover {
  readonly #group: FanotifyGroup;
  readonly #holder: HolderClient;
  readonly #journals: readonly OldJournal[];
  readonly #unanswered: readonly Unanswered[];

  /** Early in the life of a successor: most numbers are free yet. */
  constructor(group: FanotifyGroup, holder: HolderClient) {
    this.#group = group;
    this.#holder = holder;
    this.#journals = holder.unclaimed(JOURNAL_KIND).flatMap((handed) => {
      const view = openJournal(handed);
      if (view === undefined) return []; // of another version: its reads fail
      holder.hold(handed.entry);
      return [{ key: handed.entry.key, fd: handed.fd, view }];
    });
    const events = this.#journals.flatMap(({ view }) => view.left());
    this.#unanswered = [...Map.groupBy(events, ({ fd }) => fd)].map(([fd, noted]) => {
      return { fd, events: noted, place: occupy(group.fd, fd) };
    });
  }

  /**
   * Answers everything; call when all mounts that can be are served, before any event is read.
   * @param files what is marked
   * @param serve begins to read events
   */
  async answerAll(files: Iterable<MarkedFile>, serve: () => Promise<void>): Promise<void> {
    const all = [...files];
    this.#sweep();
    // A number that something else has here might be free, and an event's, at any moment.
    await Promise.all(this.#unanswered.map((one) => one.place === undefined && this.#answer(one, all)));
    await serve();
    await Promise.all(this.#unanswered.map((one) => one.place !== undefined && this.#answer(one, all)));
    this.#forgetJournals();
  }

  /** There should be none: what has been read is in the journal. Nobody is to wait for ever should that be wrong. */
  #sweep(): void {
    const known = new Set(this.#unanswered.map(({ fd }) => fd));
    const highest = Math.max(0, ...this.#journals.map(({ view }) => view.highestFd));
    const end = Math.max(LEAST_SWEPT, highest + SWEPT_BEHIND);
    for (let fd = 0; fd < end; fd++) if (!known.has(fd)) answerEvent(this.#group, fd, EIO);
  }

  async #answer({ fd, events, place }: Unanswered, files: readonly MarkedFile[]): Promise<void> {
    try {
      const filled = await Promise.all(events.map((event) => fill(event, files)));
      answerEvent(this.#group, fd, filled.every(Boolean) ? 0 : EIO);
      for (const { view } of this.#journals) view.forget(fd);
    } finally {
      if (place !== undefined) closeSync(place);
    }
  }

  #forgetJournals(): void {
    for (const { key, fd, view } of this.#journals) {
      view.clearBatch();
      this.#holder.drop(key);
      if (fd !== undefined) closeSync(fd);
    }
  }
}

/** Takes a number, so that nothing else gets it. @returns undefined when it is in use */
function occupy(fd: number, number: number): number | undefined {
  const { fd: copy } = libc().duplicateFd(fd, number);
  if (copy === number) return copy;
  if (copy !== undefined) closeSync(copy);
  return undefined;
}

/** Brings what an event wants. Where it does not say of which file, of all that have something there. */
async function fill({ range, file }: JournaledEvent, files: readonly MarkedFile[]): Promise<boolean> {
  if (range === undefined) return false;
  const candidates =
    file === undefined
      ? files.filter(({ dataEnd }) => range.start < dataEnd)
      : files.filter(({ dev, ino }) => dev === file.dev && ino === file.ino);
  if (file !== undefined && candidates.length === 0) return false;
  const filled = await Promise.all(candidates.map((one) => bring(one, range, candidates.length > 1)));
  return filled.every(Boolean);
}

/** @param isGuess the file may be another one: what it does not know is not missed */
async function bring(file: MarkedFile, range: ByteRange, isGuess: boolean): Promise<boolean> {
  const state = file.stateOf(range);
  if (state === "ready") return true;
  if (state === "foreign" && !isGuess) return false;
  return (await file.fill(range)) || (isGuess && file.stateOf(range) === "foreign");
}
