import { randomBytes } from "node:crypto";
import { join } from "node:path";

/** Which blob's cache, and where. */
export interface CachePlace {
  readonly dir: string;
  /** 64 hex digits. */
  readonly id: string;
}

/** What the files of a cache are, each `<hex>.<kind>`; a process' own ones are `<hex>.<pid>.<random>.<kind>`. */
export type CacheFileKind = "data" | "map" | "lock" | "user";

/** A file name taken apart. */
export interface CacheFileName {
  readonly name: string;
  readonly id: string;
  readonly kind: CacheFileKind;
  /** Of the process whose own file it is. */
  readonly pid?: number;
}

const FILE_NAME = /^([0-9a-f]{64})(?:\.(\d+)\.[0-9a-f]+)?\.(data|map|lock|user)$/;

/** @returns undefined for a file that is none of a cache */
export function parseCacheName(name: string): CacheFileName | undefined {
  const [, id, pid, kind] = FILE_NAME.exec(name) ?? [];
  if (id === undefined || kind === undefined) return undefined;
  return { name, id, kind: kind as CacheFileKind, ...(pid === undefined ? {} : { pid: Number(pid) }) };
}

/** Path of a file that all processes share. */
export function sharedPath({ dir, id }: CachePlace, kind: CacheFileKind): string {
  return join(dir, `${id}.${kind}`);
}

/** A new path for a file of this process. */
export function ownPath({ dir, id }: CachePlace, kind: CacheFileKind): string {
  return join(dir, `${id}.${process.pid}.${randomBytes(8).toString("hex")}.${kind}`);
}
