import { createHash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { syncDirectoryNow } from "../../content/store/file-io.ts";
import { findMount } from "../../os/mount.ts";
import { identityOf, isRunning, type ProcessIdentity } from "../../os/process.ts";
import { EROFS_TYPE, MOUNT_TYPE } from "./engine.ts";

/** What is on disk about one mount: `<root>/mounts/<id>.json`. */
export interface MountRecord {
  /** Derived from the mount point: one record for each. */
  readonly id: string;
  /** Absolute, without symlinks. */
  readonly mountpoint: string;
  /** As the user named it. */
  readonly image: string;
  readonly engine: string;
  /** File system type in /proc/self/mountinfo. */
  readonly type: string;
  /** Why this engine, where one was chosen: a line. */
  readonly why?: string | undefined;
  /** The process that serves it. */
  readonly pid: number;
  /** With `pid`, names the process for ever. */
  readonly pidStart: string;
  /** ISO 8601. */
  readonly startedAt: string;
  /** False until the mount answers. */
  readonly ready: boolean;
  /** The process that starts another server should that one die (holder.ts). */
  readonly holder?: ProcessIdentity | undefined;
  /** Hex digits of the blobs that it reads, once it answers. */
  readonly blobs?: readonly string[];
}

/**
 * What has become of a mount: `detached` ones have been taken out of the tree and go on for those who have files open;
 * `recovering` ones wait for another server, since theirs has died; `dead` ones have none and answer nothing; `poisoned`
 * ones, by EROFS, have none and may have shown zeros that no image holds.
 */
export type MountState = "starting" | "serving" | "detached" | "recovering" | "dead" | "poisoned";

/** A record and what it is worth now. */
export interface ListedMount extends MountRecord {
  readonly state: MountState;
}

/** The id of a mount point. */
export function mountId(mountpoint: string): string {
  return createHash("sha256").update(mountpoint).digest("hex").slice(0, 16);
}

/** Where records live below a state root. */
function recordDir(root: string): string {
  return join(root, "mounts");
}

export function recordPath(root: string, id: string): string {
  return join(recordDir(root), `${id}.json`);
}

/**
 * Claims a mount point for this process; of two that try, one succeeds. A record whose process is gone gives way.
 * @throws EBUSY another process serves or is about to serve it
 */
export function claimMount(
  root: string,
  fields: Pick<MountRecord, "mountpoint" | "image" | "engine" | "type">,
): MountRecord {
  const record: MountRecord = {
    id: mountId(fields.mountpoint),
    ...fields,
    ...identityOf(process.pid),
    startedAt: new Date().toISOString(),
    ready: false,
  };
  mkdirSync(recordDir(root), { recursive: true, mode: 0o700 });
  const path = recordPath(root, record.id);
  const staged = stage(root, record);
  try {
    for (let attempt = 0; attempt < 2; attempt++) {
      if (linkUnlessThere(staged, path)) return record;
      const found = readRecord(path);
      if (found !== undefined && (isAlive(found) || isHeld(found))) {
        const message = `Cannot mount: process ${found.pid} serves ${found.image} there`;
        throw new NydusError("EBUSY", message, { path: fields.mountpoint });
      }
      rmSync(path, { force: true });
    }
    throw new NydusError("EBUSY", "Cannot mount: another process was faster", { path: fields.mountpoint });
  } finally {
    rmSync(staged, { force: true });
  }
}

/** Says on disk that this process serves a mount now, or who holds it. That need not outlive the machine's power. */
export function rewriteRecord(root: string, record: MountRecord): MountRecord {
  renameSync(stage(root, record, false), recordPath(root, record.id));
  return record;
}

/** The record of a mount that this process takes over. */
export function ownRecord(record: MountRecord, holder: ProcessIdentity | undefined): MountRecord {
  return { ...record, ready: true, ...identityOf(process.pid), holder };
}

/** Says on disk that the mount answers, and which blobs it reads. */
export function markReady(root: string, record: MountRecord, blobs: readonly string[] = []): MountRecord {
  const ready = { ...record, ready: true, blobs };
  renameSync(stage(root, ready), recordPath(root, record.id));
  syncDirectoryNow(recordDir(root));
  return ready;
}

/** Removes a record, unless another process has taken its place. */
export function removeRecord(root: string, record: MountRecord): void {
  const path = recordPath(root, record.id);
  const found = readRecord(path);
  if (found === undefined || (found.pid === record.pid && found.pidStart === record.pidStart)) {
    rmSync(path, { force: true });
  }
}

/** The mounts of a state root, by mount point. Records of which nothing is left, and damaged ones, are removed. */
export function listMounts(root: string): ListedMount[] {
  return recordNames(root)
    .flatMap((name) => {
      const path = join(recordDir(root), name);
      const record = readRecord(path);
      const state = record === undefined ? undefined : stateOf(record);
      if (record !== undefined && state !== undefined) return [{ ...record, state }];
      rmSync(path, { force: true });
      return [];
    })
    .sort((a, b) => (a.mountpoint < b.mountpoint ? -1 : 1));
}

/** The mount at a mount point, or undefined. @param mountpoint absolute, without symlinks */
export function findRecord(root: string, mountpoint: string): ListedMount | undefined {
  const record = readRecord(recordPath(root, mountId(mountpoint)));
  const state = record === undefined ? undefined : stateOf(record);
  return record === undefined || state === undefined ? undefined : { ...record, state };
}

/** Whether the process that wrote the record still runs. */
export function isAlive(record: MountRecord): boolean {
  return isRunning(record);
}

/** Whether a process lives that brings the mount's server back. */
function isHeld({ holder }: MountRecord): boolean {
  return holder !== undefined && isRunning(holder);
}

/** Whether a mount has no server, and will have none. */
export function isLost(state: MountState | undefined): boolean {
  return state === "dead" || state === "poisoned";
}

/** Whether what is mounted at a place is one of ours. */
export function isOurMount(record: { mountpoint: string; engine?: string; type?: string }): boolean {
  const found = findMount(record.mountpoint)?.type;
  return found !== undefined && ourTypes(record).includes(found);
}

/** Which way a mount was made is written down after it was made. */
function ourTypes({ engine = "auto", type = MOUNT_TYPE }: { engine?: string; type?: string }): readonly string[] {
  return engine === "auto" || engine === "erofs" ? [type, EROFS_TYPE] : [type];
}

function stateOf(record: MountRecord): MountState | undefined {
  const mounted = isOurMount(record);
  if (!isAlive(record)) {
    if (isHeld(record)) return "recovering";
    return mounted ? (record.engine === "erofs" ? "poisoned" : "dead") : undefined;
  }
  if (!record.ready) return "starting";
  return mounted ? "serving" : "detached";
}

function recordNames(root: string): string[] {
  try {
    return readdirSync(recordDir(root)).filter((name) => /^[0-9a-f]{16}\.json$/.test(name));
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return [];
    throw asNydusError(error, { path: recordDir(root) });
  }
}

function readRecord(path: string): MountRecord | undefined {
  try {
    const value = JSON.parse(readFileSync(path, "utf8")) as Partial<Record<keyof MountRecord, unknown>>;
    const texts = [value.id, value.mountpoint, value.image, value.engine, value.type, value.pidStart, value.startedAt];
    const whole = texts.every((text) => typeof text === "string") && Number.isSafeInteger(value.pid);
    const { ready, blobs = [] } = value;
    return whole && typeof ready === "boolean" && Array.isArray(blobs) ? (value as unknown as MountRecord) : undefined;
  } catch {
    return undefined; // gone, or damaged: worth as much
  }
}

/** Writes a record, mostly durably, under a name that nobody reads. */
function stage(root: string, record: MountRecord, isDurable = true): string {
  const path = join(recordDir(root), `.${record.id}.${process.pid}.tmp`);
  const fd = openSync(path, "w", 0o600);
  try {
    writeSync(fd, `${JSON.stringify(record)}\n`);
    if (isDurable) fsyncSync(fd);
  } catch (error) {
    rmSync(path, { force: true });
    throw asNydusError(error, { path });
  } finally {
    closeSync(fd);
  }
  return path;
}

function linkUnlessThere(staged: string, path: string): boolean {
  try {
    linkSync(staged, path);
    return true;
  } catch (error) {
    if ((error as { code?: unknown }).code === "EEXIST") return false;
    throw asNydusError(error, { path });
  }
}
