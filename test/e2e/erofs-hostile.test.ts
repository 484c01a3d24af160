import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../src/base/errors.ts";
import { ChunkIndex } from "../../src/format/erofs/device.ts";
import { Dirent } from "../../src/format/erofs/dirent.ts";
import { chunkIndexOffset } from "../../src/format/erofs/extent.ts";
import { InodeCompact, InodeExtended } from "../../src/format/erofs/inode.ts";
import { SUPER_OFFSET, SuperBlock } from "../../src/format/erofs/superblock.ts";
import { openRafs, type RafsImage } from "../../src/format/rafs/image.ts";
import { checkForDriver } from "../../src/format/rafs/kernel-safe.ts";
import type { MountHost, MountSession } from "../../src/operation/mount/engine.ts";
import { openErofsHost } from "../../src/operation/mount/erofs/engine.ts";
import { mapFile } from "../../src/os/mmap.ts";
import { findMount } from "../../src/os/mount.ts";
import { canMountErofs, kernelBugs } from "../kit/erofs-lab.ts";
import { randomOf } from "../kit/fake-blob.ts";
import { smallGolden } from "../kit/golden.ts";
import { decodeBlob, RawDevice } from "../kit/raw-device.ts";
import { run } from "../kit/shell.ts";

setDefaultTimeout(120_000);
const canMount = canMountErofs() && Bun.which("fsck.erofs") !== null;
const at = join(smallGolden(), "rafs", "v6-zstd-blake3-64k");
const sound = new Uint8Array(readFileSync(join(at, "merged.boot")));
const rafs = openRafs(sound);

interface Place {
  readonly file: number;
  readonly dir: number;
  readonly link: number;
}

/** Offsets of inodes: a file with chunks, a directory that is not the root, a symbolic link. */
const places = findPlaces(rafs);

function findPlaces({ erofs }: RafsImage): Place {
  const nids = [...nidsBelow(erofs.rootNid)];
  const find = (isIt: (nid: number) => boolean): number => nids.find(isIt) ?? 0;
  return {
    file: find((nid) => erofs.inode(nid).type === "file" && erofs.inode(nid).sizeBytes > 0),
    dir: find((nid) => isSmallDirectory(nid) && [...erofs.readdir(nid)].length > 2),
    link: find((nid) => erofs.inode(nid).type === "symlink"),
  };
}

function isSmallDirectory(nid: number): boolean {
  const { type, sizeBytes } = rafs.erofs.inode(nid);
  return type === "dir" && sizeBytes < 4096;
}

function* nidsBelow(nid: number): Generator<number> {
  for (const entry of rafs.erofs.readdir(nid)) {
    if (entry.name[0] === 0x2e) continue;
    yield entry.nid;
    if (entry.type === "dir") yield* nidsBelow(entry.nid);
  }
}

function withView(change: (view: DataView) => void): Uint8Array {
  const copy = sound.slice();
  change(new DataView(copy.buffer));
  return copy;
}

const inodeAt = (nid: number): number => rafs.erofs.inode(nid).offset;
const isExtended = (nid: number): boolean => (new DataView(sound.buffer).getUint16(inodeAt(nid), true) & 1) === 1;
const field = (nid: number, name: "iSize" | "iU"): number =>
  inodeAt(nid) + (isExtended(nid) ? InodeExtended.at[name] : InodeCompact.at[name]);
const superAt = (name: keyof typeof SuperBlock.at): number => SUPER_OFFSET + SuperBlock.at[name];

/** First entry of a directory that lies inline. */
function direntsAt(nid: number): number {
  const inode = rafs.erofs.inode(nid);
  return inode.layout === 2 ? inode.xattrOffset + inode.xattrBytes : inode.u * 4096;
}

const chunkAt = chunkIndexOffset(rafs.erofs.inode(places.file));
const HOSTILE: readonly (readonly [string, (view: DataView) => void])[] = [
  ["48-bit images", (view) => view.setUint32(superAt("featureIncompat"), 0x80 | 0xc, true)],
  ["compressed configurations", (view) => view.setUint32(superAt("featureIncompat"), 0x2 | 0xc, true)],
  ["a checksum that nobody has made", (view) => view.setUint32(superAt("featureCompat"), 0x4000_0001, true)],
  ["an attribute filter", (view) => view.setUint32(superAt("featureCompat"), 0x4000_0004, true)],
  ["extension slots", (view) => view.setUint8(superAt("sbExtslots"), 9)],
  ["attribute prefixes", (view) => view.setUint8(superAt("xattrPrefixCount"), 3)],
  ["a packed inode", (view) => view.setUint32(superAt("packedNid"), 77, true)],
  ["blocks of 512 bytes", (view) => view.setUint8(superAt("blkszbits"), 9)],
  ["a root outside of the image", (view) => view.setUint16(superAt("rootnid2b"), 0xffff, true)],
  ["a root that is a file", (view) => view.setUint16(superAt("rootnid2b"), places.file, true)],
  ["a device table past the end", (view) => view.setUint16(superAt("devtSlotoff"), 0xffff, true)],
  ["more devices than blobs", (view) => view.setUint16(superAt("extraDevices"), 200, true)],
  ["an inode of another layout", (view) => view.setUint16(inodeAt(places.file), 0x3, true)],
  ["unknown format bits", (view) => view.setUint16(inodeAt(places.file), 0x8009, true)],
  ["a directory without end", (view) => view.setUint32(field(places.dir, "iSize"), 0xffff_f000, true)],
  ["a link without end", (view) => view.setUint32(field(places.link, "iSize"), 0x7fff_ffff, true)],
  ["a file without end", (view) => view.setUint32(field(places.file, "iSize"), 0xffff_ffff, true)],
  ["a chunk behind its device", (view) => view.setUint32(chunkAt + ChunkIndex.at.startblkLo, 0x00ff_ffff, true)],
  ["a chunk that no row has", (view) => view.setUint32(chunkAt + ChunkIndex.at.startblkLo, 3, true)],
  ["a hole in a file", (view) => view.setUint32(chunkAt + ChunkIndex.at.startblkLo, 0xffff_ffff, true)],
  ["a device that is not there", (view) => view.setUint16(chunkAt + ChunkIndex.at.deviceId, 3, true)],
  ["a chunk in the metadata", (view) => view.setUint16(chunkAt + ChunkIndex.at.deviceId, 0, true)],
  ["chunks smaller than the image's", (view) => view.setUint32(field(places.file, "iU"), 0x20, true)],
  ["block numbers for chunk indexes", (view) => view.setUint32(field(places.file, "iU"), 0x4, true)],
  ["an entry into nowhere", (view) => view.setUint32(direntsAt(places.dir) + 2 * Dirent.sizeBytes, 0x7fff_ffff, true)],
  ["a loop", (view) => view.setUint32(direntsAt(places.dir) + 2 * Dirent.sizeBytes, rafs.erofs.rootNid, true)],
  ["names that begin in the entries", (view) => view.setUint16(direntsAt(places.dir) + Dirent.at.nameoff, 6, true)],
  ["names behind the block", (view) => view.setUint16(direntsAt(places.dir) + Dirent.at.nameoff, 0xfffc, true)],
  ["names out of order", (view) => view.setUint16(direntsAt(places.dir) + 12 + Dirent.at.nameoff, 4000, true)],
  ["attributes past the image", (view) => view.setUint16(inodeAt(places.file) + 2, 0xffff, true)],
];

let dir: string;
let host: MountHost;
let session: MountSession | undefined;
let before: string[] = [];

beforeAll(async () => {
  if (!canMount) return;
  dir = mkdtempSync(join(tmpdir(), "nydus-hostile-"));
  mkdirSync(join(dir, "mnt"));
  host = openErofsHost();
  before = await kernelBugs();
});

afterEach(async () => {
  await session?.[Symbol.asyncDispose]();
  session = undefined;
});

afterAll(async () => {
  if (!canMount) return;
  await host[Symbol.asyncDispose]();
  while ((await run("umount", "-l", join(dir, "mnt"))).status === 0);
  rmSync(dir, { recursive: true, force: true });
});

function openDevices(): RawDevice[] {
  return rafs.blobs.map((blob, i) => {
    const chunks = rafs.chunkMap(i);
    return new RawDevice(decodeBlob(readFileSync(join(at, "blobs", blob.id)), chunks, blob.deviceBytes), chunks);
  });
}

/** Mounts a bootstrap. @returns the code of what refused it, or "mounted" */
async function tryMount(bytes: Uint8Array, devices: RawDevice[]): Promise<string> {
  const path = join(dir, "image.boot");
  writeFileSync(path, bytes);
  using bootstrap = mapFile(path);
  try {
    session = await host.mount({ mountpoint: join(dir, "mnt"), bootstrap, devices });
    return "mounted";
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
}

/** The sound bootstrap with up to three bytes changed, every third of them in the superblock and the devices. */
function mutate(random: (below: number) => number): Uint8Array {
  const bytes = sound.slice();
  for (let i = 0; i <= random(2); i++) {
    bytes[random(3) === 0 ? SUPER_OFFSET + random(256) : random(bytes.length)] = random(256);
  }
  return bytes;
}

async function fsckComplaint(devices: readonly RawDevice[]): Promise<string> {
  const args = devices.map(({ fd }) => `--device=/proc/${process.pid}/fd/${fd}`);
  const { status, stdout, stderr } = await run("fsck.erofs", ...args, join(dir, "image.boot"));
  return status === 0 ? "" : `${status}: ${stdout}${stderr}`;
}

async function walk(mountpoint: string): Promise<void> {
  const list = `find ${mountpoint} -printf '%l' > /dev/null; cat ${mountpoint}/bin/* > /dev/null`;
  await run("bash", "-c", `${list}; getfattr -R -d -m - ${mountpoint} > /dev/null`);
}

describe("checkForDriver()", () => {
  test.each(["v6-zstd-blake3-64k"])("finds nothing in %s", (name) => {
    const bytes = new Uint8Array(readFileSync(join(smallGolden(), "rafs", name, "merged.boot")));
    expect(checkForDriver(bytes).findings).toEqual([]);
  });

  test.each(HOSTILE)("refuses %s", (_, change) => {
    let found = 0;
    try {
      found = checkForDriver(withView(change)).findings.length;
    } catch (error) {
      if (!(error instanceof NydusError)) throw error;
      found = 1;
    }
    expect(found).toBeGreaterThan(0);
  });
});

describe.skipIf(!canMount)("a hostile bootstrap", () => {
  test("is not mounted, and nothing is left of the attempt", async () => {
    const devices = openDevices();
    for (const [, change] of HOSTILE) {
      expect(["EUCLEAN", "ENOTSUP", "EINVAL"]).toContain(await tryMount(withView(change), devices));
      expect(findMount(join(dir, "mnt"))).toBeUndefined();
    }
    expect(await tryMount(sound, devices)).toBe("mounted");
    await session?.[Symbol.asyncDispose]();
    for (const device of devices) device[Symbol.dispose]();
  });

  test("that passes is one that fsck.erofs passes too, and the kernel walks it without a word of a bug (seed 23)", async () => {
    const random = randomOf(23);
    const devices = openDevices();
    let passed = 0;
    for (let round = 0; round < 250; round++) {
      if ((await tryMount(mutate(random), devices)) !== "mounted") continue;
      passed++;
      expect([round, await fsckComplaint(devices)]).toEqual([round, ""]);
      await walk(join(dir, "mnt"));
      await session?.[Symbol.asyncDispose]();
    }
    expect(passed).toBeGreaterThan(5);
    for (const device of devices) device[Symbol.dispose]();
    expect((await kernelBugs()).filter((line) => !before.includes(line))).toEqual([]);
  });
});
