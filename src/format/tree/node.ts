/** What a path is. */
export type NodeType = "file" | "dir" | "symlink" | "char" | "block" | "fifo" | "socket";

/** One chunk of a file: what the bootstrap's chunk table holds of it. */
export interface ChunkRecord {
  /** Index into the blob list of the bootstrap that the tree belongs to. */
  readonly blob: number;
  /** Number of the chunk in its blob, 0-based, below 2^24. */
  readonly index: number;
  readonly digest: Uint8Array;
  /** Whether the bytes in the blob are compressed (a chunk that does not shrink is stored plain). */
  readonly compressed: boolean;
  /** Of a batch: the bytes lie in a unit shared with other chunks. */
  readonly batched?: boolean;
  readonly blobOffset: number;
  readonly blobSizeBytes: number;
  readonly deviceOffset: number;
  readonly sizeBytes: number;
}

/**
 * An inode of an image in memory. Names are latin-1 keys of raw bytes (`keyOfBytes`).
 * Hard links are one object under several names: `nlink` is never stored, it is the number of names.
 */
export interface TreeNode {
  type: NodeType;
  /** Permission bits with setuid, setgid, sticky: 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  /** Seconds since 1970, may be negative. */
  mtimeSec: number;
  mtimeNsec: number;
  /** Full names (`user.alpha`) as latin-1 keys. */
  xattrs: Map<string, Uint8Array>;
  /** Of a file, bytes. */
  sizeBytes: number;
  /** Of a file: every chunk in file order; each but the last has the image's chunk size. */
  chunks: readonly ChunkRecord[];
  /** Of a symlink: raw bytes. */
  target: Uint8Array;
  /** Of a device. */
  rdevMajor: number;
  rdevMinor: number;
  /** Of a directory, in no particular order. */
  children: Map<string, TreeNode>;
}

const NO_BYTES = new Uint8Array(0);

/** A node with the fields of its type given and the rest empty. */
export function makeNode(type: NodeType, fields: Partial<Omit<TreeNode, "type">> = {}): TreeNode {
  return {
    type,
    mode: type === "dir" ? 0o755 : type === "symlink" ? 0o777 : 0o644,
    uid: 0,
    gid: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
    xattrs: new Map(),
    sizeBytes: 0,
    chunks: [],
    target: NO_BYTES,
    rdevMajor: 0,
    rdevMinor: 0,
    children: new Map(),
    ...fields,
  };
}
