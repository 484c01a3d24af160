import { closeSync, fstatSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { isSuperblockAlive } from "../../../os/erofs-mount.ts";
import { addToPoll, openPoll, PollWaiter } from "../../../os/event-poll.ts";
import { answerEvent, eventBuffer, type FanotifyGroup, readEvents, settleEvent } from "../../../os/fanotify.ts";
import { abortFuseConnection } from "../../../os/fuse-device.ts";
import { findMount, MNT_DETACH, unmount } from "../../../os/mount.ts";
import { type FailurePlan, kindOf } from "./protocol.ts";

/** An entry as the holder has it. */
export interface KeptEntry {
  readonly key: string;
  readonly plan: FailurePlan;
  readonly fd: number | undefined;
}

type MountPlan = Extract<FailurePlan, { kind: "mount" }>;

const EIO = 5;
const BATCH = 64;
const TICK_MS = 100;
/** Numbers below this one are swept where the limit cannot be read. */
const DEFAULT_FD_LIMIT = 1 << 20;

/**
 * Ends everything that nobody serves any more, so that no read waits for ever and none sees zeros: FUSE connections are
 * aborted, EROFS mounts are detached, and their reads fail until no superblock of theirs is left. Returns then.
 */
export function failEverything(entries: readonly KeptEntry[]): void {
  const mounts = entries.flatMap(({ plan }) => (plan.kind === "mount" ? [plan] : []));
  const groups = entries.flatMap(({ plan, fd }) => (plan.kind === "fanotify" && fd !== undefined ? [{ fd }] : []));
  for (const group of groups) sweep(group);
  for (const mount of mounts) failMount(mount);
  // Without root there is no abort: the last copy of a descriptor ends what waits for it. Locks end in the same way.
  for (const { key, fd } of entries) if (fd !== undefined && ["fuse", "lock"].includes(kindOf(key))) closeSync(fd);
  const files = new Map(
    entries.flatMap(({ plan }) => (plan.kind === "data" ? [[`${plan.dev}:${plan.ino}`, plan.dataEnd] as const] : [])),
  );
  if (groups.length > 0) refuse(groups, files, mounts);
}

/** Fails what a dead process had read and not answered: such events are known by their numbers only. */
function sweep(group: FanotifyGroup): void {
  const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1]);
  const end = Number.isSafeInteger(limit) ? limit : DEFAULT_FD_LIMIT;
  for (let fd = 0; fd < end; fd++) answerEvent(group, fd, EIO);
}

function failMount({ engine, mountpoint, minor, recordPath }: MountPlan): void {
  try {
    if (engine === "fuse") abortFuseConnection(minor);
    else if (findMount(mountpoint)?.minor === minor) unmount(mountpoint, MNT_DETACH);
  } catch {
    // it stays in the tree, and its reads fail all the same
  }
  if (recordPath !== undefined) forgetHolder(recordPath);
}

/** Says on disk that nobody will bring the mount back. */
function forgetHolder(path: string): void {
  try {
    const { holder: _, ...record } = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    writeFileSync(`${path}.tmp`, `${JSON.stringify(record)}\n`, { mode: 0o600 });
    renameSync(`${path}.tmp`, path);
  } catch {
    // gone, or the disk is full: the mount looks as if it could come back until this process has ended
  }
}

/** Fails every read until nothing is left that could be read. Where the kernel does not tell, for ever. */
function refuse(
  groups: readonly FanotifyGroup[],
  files: ReadonlyMap<string, number>,
  mounts: readonly MountPlan[],
): void {
  const poll = openPoll();
  for (const [i, { fd }] of groups.entries()) addToPoll(poll, fd, i + 1);
  const waiter = new PollWaiter(poll);
  const buffer = eventBuffer(BATCH);
  const superblocks = mounts.filter(({ engine }) => engine === "erofs");
  while (superblocks.some(({ names }) => isSuperblockAlive(names) !== false)) {
    waiter.wait((key) => {
      const group = groups[key - 1];
      if (group !== undefined) refuseSome(group, buffer, files);
    }, TICK_MS);
  }
}

function refuseSome(group: FanotifyGroup, buffer: Uint8Array, files: ReadonlyMap<string, number>): void {
  try {
    for (const event of readEvents(group, buffer, BATCH)) {
      if (event.kind !== "access") continue;
      const { dev, ino } = fstatSync(event.fd);
      // What lies behind the data says which cache it is.
      const dataEnd = files.get(`${dev}:${ino}`) ?? Number.POSITIVE_INFINITY;
      const isBehindData = event.range !== undefined && event.range.start >= dataEnd;
      settleEvent(group, event.fd, isBehindData ? 0 : EIO);
    }
  } catch {
    // an event that cannot be read fails by itself
  }
}
