import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DeviceSlot } from "../../src/format/erofs/device.ts";
import { decodeSuperblock } from "../../src/format/erofs/superblock.ts";
import { FIXTURE_CHUNK_BYTES } from "./raw-device.ts";

/** Whether this machine can mount: root, /dev/fuse, Python for the listing, mkfs.erofs for the image. */
export const canMount =
  process.getuid?.() === 0 &&
  existsSync("/dev/fuse") &&
  ["mkfs.erofs", "python3", "setfacl", "setfattr"].every((tool) => Bun.which(tool) !== null);

/** A small image made by mkfs.erofs: a bootstrap and one device, and the tree that it shows. */
export interface MountFixture extends Disposable {
  readonly dir: string;
  readonly source: string;
  readonly bootstrapPath: string;
  readonly blobPath: string;
  /** An empty directory. */
  readonly mountpoint: string;
}

function run(command: string, ...args: string[]): void {
  const result = spawnSync(command, args, { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${command} ${args.join(" ")}: ${result.stderr}`);
}

/** Makes the fixture in a new temporary directory; disposing unmounts whatever a test left and removes it. */
export function makeMountFixture(): MountFixture {
  const dir = mkdtempSync(join(tmpdir(), "nydus-fuse-"));
  const source = join(dir, "source");
  makeTree(source);
  const bootstrapPath = join(dir, "image.boot");
  const blobPath = join(dir, "image.blob");
  run("mkfs.erofs", "--quiet", `--chunksize=${FIXTURE_CHUNK_BYTES}`, `--blobdev=${blobPath}`, bootstrapPath, source);
  writeDeviceSize(bootstrapPath, blobPath);
  const mountpoint = join(dir, "mnt");
  mkdirSync(mountpoint);
  return {
    dir,
    source,
    bootstrapPath,
    blobPath,
    mountpoint,
    [Symbol.dispose]: () => {
      while (spawnSync("umount", ["-l", mountpoint]).status === 0);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function makeTree(source: string): void {
  mkdirSync(join(source, "many", "deep"), { recursive: true });
  writeFileSync(join(source, "big"), pseudoRandom(3_000_000));
  linkSync(join(source, "big"), join(source, "many", "hard"));
  writeFileSync(join(source, "small"), "hello\n");
  writeFileSync(join(source, "empty"), "");
  writeFileSync(join(source, "sparse"), "");
  truncateSync(join(source, "sparse"), 1_500_000);
  symlinkSync("small", join(source, "link"));
  symlinkSync("x/".repeat(1500), join(source, "long-link"));
  writeFileSync(join(source, "run.sh"), '#!/bin/sh\necho "ran $1"\n');
  chmodSync(join(source, "run.sh"), 0o4755);
  for (let i = 0; i < 1500; i++) writeFileSync(join(source, "many", "deep", `${"n".repeat(i % 200)}${i}`), "");
  run("mkfifo", join(source, "fifo"));
  run("mknod", join(source, "char"), "c", "300", "70000");
  run("setfattr", "-n", "user.alpha", "-v", "beta", join(source, "small"));
  run("setfattr", "-n", "user.long", "-v", "v".repeat(900), join(source, "small"));
  writeFileSync(join(source, "secret"), "for 4321 only\n");
  chmodSync(join(source, "secret"), 0o600);
  run("setfacl", "-m", "u:4321:r", join(source, "secret"));
}

/** mkfs.erofs 1.5 leaves the size of the device out. */
function writeDeviceSize(bootstrapPath: string, blobPath: string): void {
  const image = new Uint8Array(readFileSync(bootstrapPath));
  const slot = decodeSuperblock(image).devtSlotoff * DeviceSlot.sizeBytes;
  const blocks = Math.ceil(readFileSync(blobPath).length / 4096);
  new DataView(image.buffer).setUint32(slot + DeviceSlot.at.blocksLo, blocks, true);
  writeFileSync(bootstrapPath, image);
}

function pseudoRandom(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 0x2545f491;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
