import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unmountBelow } from "./leftovers.ts";

const DISK_BYTES = 256 << 20;
/** What a full disk still has room for. */
const ROOM_BYTES = 8 << 20;

/** A file system of its own, that can be filled. */
export interface SmallDisk extends AsyncDisposable {
  readonly mountpoint: string;
  /** Leaves room for a part of the data only. */
  fill(): void;
  empty(): void;
}

/** Makes one. */
export function makeSmallDisk(): SmallDisk {
  const dir = mkdtempSync(join(tmpdir(), "nydus-disk-"));
  const [image, mountpoint] = [join(dir, "image"), join(dir, "mnt")];
  const filler = join(mountpoint, "filler");
  mkdirSync(mountpoint);
  const command = (...args: string[]): void => {
    const { status, stderr } = spawnSync(args[0] ?? "", args.slice(1), { encoding: "utf8" });
    if (status !== 0) throw new Error(`${args.join(" ")}: ${stderr}`);
  };
  command("truncate", "-s", String(DISK_BYTES), image);
  command("mkfs.ext4", "-q", "-F", image);
  command("mount", "-o", "loop", image, mountpoint);
  return {
    mountpoint,
    fill: () => {
      const { bavail, bsize } = statfsSync(mountpoint);
      command("fallocate", "-l", String(bavail * bsize - ROOM_BYTES), filler);
    },
    empty: () => rmSync(filler, { force: true }),
    [Symbol.asyncDispose]: async () => {
      await unmountBelow(mountpoint);
      await unmountBelow(dir);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
