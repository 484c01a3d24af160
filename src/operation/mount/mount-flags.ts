import { NydusError } from "../../base/errors.ts";
import { MAX_READ_BYTES } from "./fuse/server.ts";

/** What mount(8) shows as the source of our mounts, and as subtype, unless asked otherwise. */
export const MOUNT_SOURCE = "nydus";

/** How a file system is mounted, by the words that mount(8) and fusermount3 take after `-o`. */
export interface MountFlags {
  /** Let others than who mounts in; what root mounts is for all unless this is false. */
  readonly allowOther?: boolean | undefined;
  /** Honour set-user-id bits and file capabilities of the image. */
  readonly suid: boolean;
  /** Let the image's device nodes be opened. */
  readonly dev: boolean;
  /** Let programs of the image be run. */
  readonly exec: boolean;
  /** What the first column of mount(8) shows. */
  readonly fsname: string;
  /** The file system's type is shown as `fuse.<subtype>`. */
  readonly subtype: string;
  /** Longest READ, bytes. */
  readonly maxReadBytes: number;
}

/** How an image is mounted unless asked otherwise: as nydusd does. */
export const DEFAULT_MOUNT_FLAGS: MountFlags = {
  suid: false,
  dev: false,
  exec: true,
  fsname: MOUNT_SOURCE,
  subtype: MOUNT_SOURCE,
  maxReadBytes: MAX_READ_BYTES,
};

/** Options that are words alone; `ro` and the like say what is so anyway. */
const WORDS: Readonly<Record<string, Partial<MountFlags>>> = {
  allow_other: { allowOther: true },
  ro: {},
  default_permissions: {},
  noatime: {},
  suid: { suid: true },
  nosuid: { suid: false },
  dev: { dev: true },
  nodev: { dev: false },
  exec: { exec: true },
  noexec: { exec: false },
};

const MIN_READ_BYTES = 4096;
/** Names that can stand in a line of /proc/mounts and in options without quoting. */
const NAME = /^[\x21-\x2b\x2d-\x5b\x5d-\x7e]{1,255}$/;
const SUBTYPE = /^[A-Za-z0-9_.+-]{1,64}$/;

/** Options with a value. */
const VALUES: Readonly<Record<string, (value: string) => Partial<MountFlags> | undefined>> = {
  fsname: (value) => (NAME.test(value) ? { fsname: value } : undefined),
  subtype: (value) => (SUBTYPE.test(value) ? { subtype: value } : undefined),
  max_read: (value) => {
    const bytes = /^\d{1,9}$/.test(value) ? Number(value) : 0;
    return bytes >= MIN_READ_BYTES && bytes <= MAX_READ_BYTES ? { maxReadBytes: bytes } : undefined;
  },
};

/**
 * Parses mount options, comma-separated; the last of two that contradict each other counts.
 * @throws EINVAL an unknown option, naming those that are known; a value that is none
 */
export function parseMountFlags(text: string): MountFlags {
  let flags = DEFAULT_MOUNT_FLAGS;
  for (const option of text.split(",")) if (option !== "") flags = { ...flags, ...parseOption(option) };
  return flags;
}

function parseOption(option: string): Partial<MountFlags> {
  const equals = option.indexOf("=");
  const name = equals < 0 ? option : option.slice(0, equals);
  if (equals < 0 && Object.hasOwn(WORDS, name)) return WORDS[name] as Partial<MountFlags>;
  if (equals >= 0 && Object.hasOwn(VALUES, name)) {
    const parsed = VALUES[name]?.(option.slice(equals + 1));
    if (parsed !== undefined) return parsed;
    throw new NydusError("EINVAL", `Cannot use mount option ${JSON.stringify(option)}: its value is not possible`);
  }
  const known = [...Object.keys(WORDS), ...Object.keys(VALUES).map((one) => `${one}=`)].join(", ");
  throw new NydusError("EINVAL", `Cannot use mount option ${JSON.stringify(option)}: known are ${known}`);
}
