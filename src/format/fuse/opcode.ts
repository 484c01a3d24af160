/** What the server does with a request. */
export type FuseHandler =
  | "init"
  | "lookup"
  | "getattr"
  | "readlink"
  | "read"
  | "statfs"
  | "getxattr"
  | "listxattr"
  | "readdir"
  | "readdirplus"
  | "done"
  | "silent"
  | "readonly"
  | "unsupported";

/** One kind of request. */
export interface FuseOpcode {
  readonly code: number;
  readonly handler: FuseHandler;
}

/**
 * Every request of linux/fuse.h. `silent` ones get no reply; `done` ones succeed with nothing to do; `unsupported`
 * ones get ENOSYS, after which the kernel stops asking and does it itself (OPEN, OPENDIR, FLUSH, LSEEK, locks) or
 * fails them (IOCTL, POLL); `readonly` ones get EROFS, should a read-only mount let them through.
 */
export const FUSE_OPCODES = {
  LOOKUP: { code: 1, handler: "lookup" },
  FORGET: { code: 2, handler: "silent" },
  GETATTR: { code: 3, handler: "getattr" },
  SETATTR: { code: 4, handler: "readonly" },
  READLINK: { code: 5, handler: "readlink" },
  SYMLINK: { code: 6, handler: "readonly" },
  MKNOD: { code: 8, handler: "readonly" },
  MKDIR: { code: 9, handler: "readonly" },
  UNLINK: { code: 10, handler: "readonly" },
  RMDIR: { code: 11, handler: "readonly" },
  RENAME: { code: 12, handler: "readonly" },
  LINK: { code: 13, handler: "readonly" },
  OPEN: { code: 14, handler: "unsupported" },
  READ: { code: 15, handler: "read" },
  WRITE: { code: 16, handler: "readonly" },
  STATFS: { code: 17, handler: "statfs" },
  RELEASE: { code: 18, handler: "done" },
  FSYNC: { code: 20, handler: "unsupported" },
  SETXATTR: { code: 21, handler: "readonly" },
  GETXATTR: { code: 22, handler: "getxattr" },
  LISTXATTR: { code: 23, handler: "listxattr" },
  REMOVEXATTR: { code: 24, handler: "readonly" },
  FLUSH: { code: 25, handler: "unsupported" },
  INIT: { code: 26, handler: "init" },
  OPENDIR: { code: 27, handler: "unsupported" },
  READDIR: { code: 28, handler: "readdir" },
  RELEASEDIR: { code: 29, handler: "done" },
  FSYNCDIR: { code: 30, handler: "unsupported" },
  GETLK: { code: 31, handler: "unsupported" },
  SETLK: { code: 32, handler: "unsupported" },
  SETLKW: { code: 33, handler: "unsupported" },
  ACCESS: { code: 34, handler: "unsupported" },
  CREATE: { code: 35, handler: "readonly" },
  INTERRUPT: { code: 36, handler: "silent" },
  BMAP: { code: 37, handler: "unsupported" },
  DESTROY: { code: 38, handler: "done" },
  IOCTL: { code: 39, handler: "unsupported" },
  POLL: { code: 40, handler: "unsupported" },
  NOTIFY_REPLY: { code: 41, handler: "silent" },
  BATCH_FORGET: { code: 42, handler: "silent" },
  FALLOCATE: { code: 43, handler: "readonly" },
  READDIRPLUS: { code: 44, handler: "readdirplus" },
  RENAME2: { code: 45, handler: "readonly" },
  LSEEK: { code: 46, handler: "unsupported" },
  COPY_FILE_RANGE: { code: 47, handler: "readonly" },
  SETUPMAPPING: { code: 48, handler: "unsupported" },
  REMOVEMAPPING: { code: 49, handler: "unsupported" },
  SYNCFS: { code: 50, handler: "unsupported" },
  TMPFILE: { code: 51, handler: "readonly" },
  STATX: { code: 52, handler: "unsupported" },
} as const satisfies Record<string, FuseOpcode>;

/** The handler of an opcode; requests that linux/fuse.h does not know are "unsupported". */
export function handlerOf(opcode: number): FuseHandler {
  return HANDLERS[opcode] ?? "unsupported";
}

const HANDLERS: readonly (FuseHandler | undefined)[] = Object.values(FUSE_OPCODES).reduce<(FuseHandler | undefined)[]>(
  (table, row) => {
    table[row.code] = row.handler;
    return table;
  },
  [],
);
