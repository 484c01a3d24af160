import { bytes, i32, struct, u16, u32, u64, u64n } from "../../base/struct.ts";

/** The protocol version spoken: 7.31 of linux/fuse.h. A newer kernel speaks the older minor. */
export const FUSE_MAJOR = 7;
export const FUSE_MINOR = 31;
/** The oldest kernel served (4.20): the first that negotiates longer reads (FUSE_MAX_PAGES). */
export const FUSE_OLDEST_MINOR = 28;

/** The node id of a file system's root. */
export const FUSE_ROOT_ID = 1;

/** Bits of the `flags` of FUSE_INIT. */
export const InitFlag = {
  ASYNC_READ: 1 << 0,
  EXPORT_SUPPORT: 1 << 4,
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  ASYNC_DIO: 1 << 15,
  NO_OPEN_SUPPORT: 1 << 17,
  PARALLEL_DIROPS: 1 << 18,
  POSIX_ACL: 1 << 20,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  NO_OPENDIR_SUPPORT: 1 << 24,
} as const;

/** Bits of `open_flags` of {@link OpenOut}. */
export const OpenFlag = { KEEP_CACHE: 1 << 1, CACHE_DIR: 1 << 3 } as const;

/** File types of directory entries (DT_ of dirent.h); the numbers of EROFS dirents differ. */
export const DirentType = { FIFO: 1, CHAR: 2, DIR: 4, BLOCK: 6, FILE: 8, SYMLINK: 10, SOCKET: 12 } as const;

export const InHeader = struct("fuse_in_header", 40, {
  len: [0, u32],
  opcode: [4, u32],
  unique: [8, u64n],
  nodeid: [16, u64],
  uid: [24, u32],
  gid: [28, u32],
  pid: [32, u32],
  totalExtlen: [36, u16],
  padding: [38, u16],
});

export const OutHeader = struct("fuse_out_header", 16, {
  len: [0, u32],
  /** 0 or a negated errno. */
  error: [4, i32],
  unique: [8, u64n],
});

/** The first 16 bytes, which kernels of every minor send. */
export const InitIn = struct("fuse_init_in", 16, {
  major: [0, u32],
  minor: [4, u32],
  maxReadahead: [8, u32],
  flags: [12, u32],
});

export const InitOut = struct("fuse_init_out", 64, {
  major: [0, u32],
  minor: [4, u32],
  maxReadahead: [8, u32],
  flags: [12, u32],
  maxBackground: [16, u16],
  congestionThreshold: [18, u16],
  maxWrite: [20, u32],
  timeGran: [24, u32],
  maxPages: [28, u16],
  mapAlignment: [30, u16],
  flags2: [32, u32],
  unused: [36, bytes(28)],
});

export const Attr = struct("fuse_attr", 88, {
  ino: [0, u64],
  size: [8, u64],
  blocks: [16, u64],
  /** Seconds since 1970, two's complement. */
  atime: [24, u64n],
  mtime: [32, u64n],
  ctime: [40, u64n],
  atimensec: [48, u32],
  mtimensec: [52, u32],
  ctimensec: [56, u32],
  mode: [60, u32],
  nlink: [64, u32],
  uid: [68, u32],
  gid: [72, u32],
  rdev: [76, u32],
  blksize: [80, u32],
  flags: [84, u32],
});

/** What comes before the attributes of a LOOKUP's answer. */
export const EntryOut = struct("fuse_entry_out", 128, {
  /** 0: no such entry, and the kernel may remember that. */
  nodeid: [0, u64],
  generation: [8, u64],
  entryValid: [16, u64],
  attrValid: [24, u64],
  entryValidNsec: [32, u32],
  attrValidNsec: [36, u32],
  attr: [40, bytes(88)],
});

export const AttrOut = struct("fuse_attr_out", 104, {
  attrValid: [0, u64],
  attrValidNsec: [8, u32],
  dummy: [12, u32],
  attr: [16, bytes(88)],
});

export const OpenOut = struct("fuse_open_out", 16, { fh: [0, u64], openFlags: [8, u32], padding: [12, u32] });

/** Of READ, READDIR and READDIRPLUS. */
export const ReadIn = struct("fuse_read_in", 40, {
  fh: [0, u64],
  offset: [8, u64],
  size: [16, u32],
  readFlags: [20, u32],
  lockOwner: [24, u64n],
  flags: [32, u32],
  padding: [36, u32],
});

/** Of GETXATTR (a name follows) and LISTXATTR. */
export const GetxattrIn = struct("fuse_getxattr_in", 8, { size: [0, u32], padding: [4, u32] });
/** The answer to a size of 0. */
export const GetxattrOut = struct("fuse_getxattr_out", 8, { size: [0, u32], padding: [4, u32] });

export const StatfsOut = struct("fuse_kstatfs", 80, {
  blocks: [0, u64],
  bfree: [8, u64],
  bavail: [16, u64],
  files: [24, u64],
  ffree: [32, u64],
  bsize: [40, u32],
  namelen: [44, u32],
  frsize: [48, u32],
  padding: [52, u32],
  spare: [56, bytes(24)],
});

/** A directory entry; the name follows, padded to 8 bytes. */
export const Dirent = struct("fuse_dirent", 24, {
  ino: [0, u64],
  /** Where reading continues after this entry. */
  off: [8, u64],
  namelen: [16, u32],
  type: [20, u32],
});

/** Directory entries begin at multiples of this. */
export const DIRENT_ALIGN = 8;
