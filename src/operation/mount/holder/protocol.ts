import { fstatSync } from "node:fs";
import { NydusError } from "../../../base/errors.ts";
import type { ProcessIdentity } from "../../../os/process.ts";

/** The name of the holder's work in `main.ts`' table. */
export const HOLDER_ROLE = "holder";
/** The holder's socket to the process that has started it. */
export const HOLDER_SOCKET = 0;
/** Names the descriptor by which a successor reaches the holder that has started it. */
export const HOLDER_FD_VARIABLE = "NYDUS_HOLDER_FD";

/** What is to be done about an entry when nobody serves its mount any more. All that a holder understands of it. */
export type FailurePlan =
  | {
      readonly kind: "mount";
      readonly engine: "fuse" | "erofs";
      readonly mountpoint: string;
      readonly minor: number;
      /** Of an EROFS superblock, below /sys/fs/erofs. */
      readonly names: readonly string[];
      /** The file that says who serves the mount. */
      readonly recordPath: string | undefined;
      /** So long a read may wait: nobody may be silent for longer. */
      readonly readTimeoutMs: number;
    }
  /** A marked data file: what lies behind `dataEnd` may be read by anyone. */
  | { readonly kind: "data"; readonly dev: number; readonly ino: number; readonly dataEnd: number }
  | { readonly kind: "fanotify" }
  | { readonly kind: "none" };

/**
 * Something that outlives the process that serves mounts: mostly a descriptor, and what a successor has to know of it.
 * A mount is an entry without a descriptor, and names the keys of others.
 */
export interface HeldEntry {
  /** Names the entry among all of its process; `kindOf(key)` is what stands before the first colon. */
  readonly key: string;
  /** Of `data`, by its kind. A successor that does not know it must not guess: it fails the mount. */
  readonly version: number;
  readonly plan: FailurePlan;
  readonly data: unknown;
}

/** An entry that keeps something and needs nothing done about it. @param data for a successor, by `version` */
export function plainEntry(key: string, version = 1, data?: unknown): HeldEntry {
  return { key, version, plan: { kind: "none" }, data };
}

let nextKey = 1;

/** A key that no other process has used, and this one has not. */
export function freshKey(kind: string): string {
  return `${kind}:${process.pid}:${nextKey++}`;
}

/** Names a file of which the descriptor is held. @throws ENOTSUP there is no descriptor */
export function fileKey(kind: "bootstrap" | "data", fd: number | undefined): string {
  if (fd === undefined) throw new NydusError("ENOTSUP", `Cannot keep the mount: its ${kind} is not a file`);
  const { dev, ino } = fstatSync(fd);
  return `${kind}:${dev}:${ino}`;
}

/** The kind of an entry: `fuse` of `fuse:63`. */
export function kindOf(key: string): string {
  return key.slice(0, Math.max(0, key.indexOf(":")));
}

/** What a holder is told. */
export type HolderOrder =
  /** First: who serves, and the command that starts a successor, if there is to be one. */
  | ({ readonly do: "hello"; readonly command: readonly string[] | undefined } & ProcessIdentity)
  /** The entry's descriptor, if it has one, comes with it; the same key again takes the place of what was. */
  | { readonly do: "hold"; readonly entry: HeldEntry }
  | { readonly do: "drop"; readonly key: string }
  | { readonly do: "beat" }
  /** A successor serves all mounts that it can. */
  | { readonly do: "resumed" }
  /** The end in good order: what is left is to fail. */
  | { readonly do: "bye" }
  /** Another holder has everything: this one is to end, and nothing to fail. */
  | { readonly do: "release" }
  /** Starts a successor although the one that serves lives. */
  | { readonly do: "upgrade"; readonly command: readonly string[] }
  /** The one that serves has stopped to. */
  | { readonly do: "handover" };

/** What a holder tells. Entries come as `hold`, with their descriptors. */
export type HolderNews =
  | { readonly do: "hold"; readonly entry: HeldEntry }
  /** There are no more entries. @param upgrade the predecessor lives, and goes on if this one fails */
  | { readonly do: "all"; readonly upgrade: boolean }
  /** A successor has come up, and waits for `handover`. */
  | { readonly do: "candidate"; readonly pid: number }
  /** No successor has come up, or not taken over. */
  | { readonly do: "failed"; readonly why: string }
  /** A successor serves. */
  | { readonly do: "taken"; readonly pid: number };

/** One message as it is sent. */
export function encodeMessage(message: HolderOrder | HolderNews): string {
  return `${JSON.stringify(message)}\n`;
}

/** @returns undefined for what another version may have meant */
export function decodeMessage<T extends HolderOrder | HolderNews>(text: string): T | undefined {
  try {
    const message = JSON.parse(text) as Partial<T> | null;
    return typeof message?.do === "string" ? (message as T) : undefined;
  } catch {
    return undefined;
  }
}
