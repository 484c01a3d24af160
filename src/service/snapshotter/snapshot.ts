import type { Labels } from "../../format/containerd/labels.ts";

/** `active` ones are written to, `view` ones only read; both become parents only by being committed, which views are not. */
export type SnapshotKind = "active" | "view" | "committed";

/** What a snapshot takes on disk. */
export interface Usage {
  readonly sizeBytes: number;
  readonly inodes: number;
}

/** A snapshot as the snapshotter knows it. */
export interface Snapshot {
  /** Names its directory; never given twice. */
  readonly id: number;
  /** The name that clients know it by, such as `k8s.io/23/sha256:…`; committing gives it another one. */
  readonly key: string;
  /** Key of the committed snapshot below it, "" for none. */
  readonly parent: string;
  readonly kind: SnapshotKind;
  readonly labels: Labels;
  /** Microseconds since the epoch. */
  readonly createdMicros: number;
  readonly updatedMicros: number;
  /** Measured when it was committed; nothing before. */
  readonly usage: Usage;
}

/** Usage of what has not been measured. */
export const NO_USAGE: Usage = { sizeBytes: 0, inodes: 0 };
