import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../src/base/errors.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import type { MountHost, MountOptions, MountSession } from "../../src/operation/mount/engine.ts";
import { openFuseHost } from "../../src/operation/mount/fuse/session.ts";
import { type MappedFile, mapFile } from "../../src/os/mmap.ts";
import { findMount } from "../../src/os/mount.ts";
import { smallGolden } from "../kit/golden.ts";
import { canMount, type MountFixture, makeMountFixture } from "../kit/mount-fixture.ts";
import { decodeBlob, FIXTURE_CHUNK_BYTES, RawDevice } from "../kit/raw-device.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../kit/tree.ts";

const CODE_OF_MESSAGE = { EIO: "Input/output error", ENOSPC: "No space left on device" } as const;

let fixture: MountFixture;
let device: RawDevice;
let host: MountHost;
let session: MountSession | undefined;
const bootstraps: MappedFile[] = [];
let errors: NydusError[] = [];

interface TestOptions extends Partial<Omit<MountOptions, "bootstrap">> {
  readonly bootstrapPath?: string;
}

async function mount({ bootstrapPath = fixture.bootstrapPath, ...options }: TestOptions = {}): Promise<MountSession> {
  const bootstrap = mapFile(bootstrapPath);
  bootstraps.push(bootstrap);
  const { mountpoint } = fixture;
  const onError = (error: NydusError): void => void errors.push(error);
  session = await host.mount({ mountpoint, bootstrap, devices: [device], onError, ...options });
  return session;
}

/** Descriptors of /dev/fuse and of the fixture that this process still has. */
function openDescriptors(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target === "/dev/fuse" || target.startsWith(fixture.dir) ? [target] : [];
    } catch {
      return []; // the descriptor of the listing itself
    }
  });
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "none";
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
}

beforeAll(() => {
  if (!canMount) return;
  fixture = makeMountFixture();
  host = openFuseHost();
});
afterAll(async () => {
  await host?.[Symbol.asyncDispose]();
  fixture?.[Symbol.dispose]();
});

beforeEach(() => {
  if (canMount) device = new RawDevice(fixture.blobPath, FIXTURE_CHUNK_BYTES);
  errors = [];
});

afterEach(async () => {
  if (!canMount) return;
  await session?.[Symbol.asyncDispose]();
  session = undefined;
  for (const bootstrap of bootstraps.splice(0)) bootstrap.close();
  const left = { mount: findMount(fixture.mountpoint)?.type, descriptors: openDescriptors() };
  await run("umount", "-l", fixture.mountpoint);
  device[Symbol.dispose]();
  expect(left).toEqual({ mount: undefined, descriptors: [] });
});

describe.skipIf(!canMount)("a FUSE mount", () => {
  test("shows the tree that mkfs.erofs packed, each attribute and byte", async () => {
    await mount();
    expect(diffTrees(await treeOf(fixture.source), await treeOf(fixture.mountpoint))).toEqual([]);
    expect(errors).toEqual([]);
  });

  test("fetches nothing for a listing, and for a small file its chunk alone", async () => {
    await mount();
    await shell(`ls -lR ${fixture.mountpoint} > /dev/null`);
    expect(device.asked).toEqual([]);
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
    expect(device.asked.length).toBe(1);
    expect(device.asked[0]?.start as number).toBeGreaterThanOrEqual(0);
    const ready = device.ready.reduce((sum, byte) => sum + byte.toString(2).replaceAll("0", "").length, 0);
    expect(ready).toBe(1);
  });

  test("gives four readers at once the right bytes", async () => {
    await mount();
    const { mountpoint, source } = fixture;
    const readers = Array.from({ length: 4 }, () => shell(`cat ${mountpoint}/big ${mountpoint}/sparse | sha256sum`));
    const wanted = await shell(`cat ${source}/big ${source}/sparse | sha256sum`);
    expect(await Promise.all(readers)).toEqual([wanted, wanted, wanted, wanted]);
  });

  test("serves direct reads at odd places, mmap and exec", async () => {
    await mount();
    const script = `
import mmap, os, sys
m, s = sys.argv[1], open(sys.argv[2] + "/big", "rb").read()
fd = os.open(m + "/big", os.O_RDONLY | os.O_DIRECT)
buf = mmap.mmap(-1, 1 << 20)
for at in (0, 4096, 512, 65536 - 4096, 2999808, 3000000 - 512 + 64, 3000064):
    n = os.preadv(fd, [buf], at)
    assert buf[:n] == s[at:at + (1 << 20)], at
f = open(m + "/big", "rb")
view = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
assert view[:] == s
assert view[123456:123460] == s[123456:123460]
print("same")
`;
    expect(await run("python3", "-c", script, fixture.mountpoint, fixture.source)).toMatchObject({
      stdout: "same\n",
      stderr: "",
    });
    expect(await shell(`${fixture.mountpoint}/run.sh now`)).toBe("ran now\n");
  });

  test("shows xattrs and ACLs as the source has them and enforces them", async () => {
    await mount();
    const { mountpoint, source } = fixture;
    for (const tool of ["getfacl -p", "getfattr -d -m - -h"]) {
      const show = (dir: string): Promise<string> =>
        shell(`cd ${dir} && find . ! -type l -print0 | sort -z | xargs -0 ${tool}`);
      expect(await show(mountpoint)).toBe(await show(source));
    }
    const as = (uid: number): Promise<{ stdout: string; status: number }> =>
      run("setpriv", `--reuid=${uid}`, "--regid=4321", "--clear-groups", "cat", join(mountpoint, "secret"));
    await shell(`chmod 755 ${fixture.dir}`);
    expect(await as(4321)).toMatchObject({ stdout: "for 4321 only\n", status: 0 });
    expect(await as(4322)).toMatchObject({ stdout: "", status: 1 });
    expect(errors).toEqual([]);
  });

  test("keeps positions of a large directory: seekdir() goes where telldir() was", async () => {
    await mount();
    const script = `
import ctypes, os, random, sys
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_ulong), ("off", ctypes.c_long), ("len", ctypes.c_ushort), ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = libc.opendir(os.fsencode(sys.argv[1] + "/many/deep"))
seen = []
while True:
    at = libc.telldir(d)
    e = libc.readdir(d)
    if not e: break
    seen.append((at, e.contents.name, e.contents.ino))
random.seed(7)
for at, name, ino in random.sample(seen, 300):
    libc.seekdir(d, at)
    e = libc.readdir(d).contents
    assert (e.name, e.ino) == (name, ino), (e.name, name)
for _, name, ino in seen:
    if name not in (b".", b".."):
        assert os.lstat(os.fsencode(sys.argv[1] + "/many/deep/") + name).st_ino == ino
print(len(seen), len(set(n for _, n, _ in seen)))
`;
    expect(await run("python3", "-c", script, fixture.mountpoint)).toMatchObject({ stdout: "1502 1502\n", stderr: "" });
  });

  test("gives hard links one inode number and every other inode its own", async () => {
    await mount();
    const lines = (await shell(`find ${fixture.mountpoint} -printf '%i %n %P\\n'`)).trimEnd().split("\n");
    const rows = lines.map((line) => line.split(" "));
    const [big, hard] = ["big", "many/hard"].map((path) => rows.find((row) => row[2] === path));
    expect(big?.slice(0, 2)).toEqual(hard?.slice(0, 2));
    expect(big?.[1]).toBe("2");
    expect(new Set(rows.map((row) => row[0])).size).toBe(rows.length - 1);
  });

  test("counts blocks and inodes in statfs()", async () => {
    await mount();
    const [type, blocks, free, files] = (await shell(`stat -f -c '%T %b %f %c' ${fixture.mountpoint}`))
      .trim()
      .split(" ");
    const size = Bun.file(fixture.bootstrapPath).size + Bun.file(fixture.blobPath).size;
    expect([type, Number(blocks), Number(free)]).toEqual(["fuseblk", size / 4096, 0]);
    const inodes = Number(await shell(`find ${fixture.source} -printf '%i\\n' | sort -u | wc -l`));
    expect(Number(files)).toBe(inodes);
  });

  test.each([
    ["EBADMSG", "EIO"],
    ["EPERM", "EIO"],
    ["EACCES", "EIO"],
    ["ENOSPC", "ENOSPC"],
  ] as const)("turns a device's %s into %s for the reader, and asks again the next time", async (code, seen) => {
    device.before = async () => {
      throw new NydusError(code, "Cannot fetch chunk: broken on purpose", { offset: 0 });
    };
    await mount();
    const failed = await run("cat", join(fixture.mountpoint, "small"));
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain(CODE_OF_MESSAGE[seen]);
    expect(errors.some((error) => error.code === code)).toBe(true);
    device.before = async () => undefined;
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
  });

  test("ends a read with EIO when its data does not come before the deadline, and others are served meanwhile", async () => {
    let aborted = false;
    device.before = ({ start }, { signal }) =>
      new Promise((resolve) => {
        signal?.addEventListener("abort", () => {
          aborted = true;
        });
        if (start >= 3_000_000) resolve();
      });
    await mount({ readTimeoutMs: 700 });
    const stuck = run("head", "-c", "10", join(fixture.mountpoint, "big"));
    await shell(`ls -R ${fixture.mountpoint} > /dev/null; readlink ${fixture.mountpoint}/link`);
    const { status, stderr } = await stuck;
    expect(status).toBe(1);
    expect(stderr).toContain(CODE_OF_MESSAGE.EIO);
    expect(aborted).toBe(true);
    expect(errors.map((error) => error.code)).toContain("ETIMEDOUT");
  });

  test("says EIO, never zeros, when the data file is shorter than its ready bits claim", async () => {
    await mount();
    await shell(`cat ${fixture.mountpoint}/big > /dev/null`);
    truncateSync(`/proc/self/fd/${device.fd}`, 0);
    await shell("echo 3 > /proc/sys/vm/drop_caches || true");
    const { status, stderr } = await run("dd", `if=${join(fixture.mountpoint, "big")}`, "iflag=direct", "of=/dev/null");
    expect(status).toBe(1);
    expect(stderr).toContain(CODE_OF_MESSAGE.EIO);
  });

  test("refuses writes as a read-only file system", async () => {
    await mount();
    const { stderr } = await run("touch", join(fixture.mountpoint, "new"), join(fixture.mountpoint, "small"));
    expect(stderr.match(/Read-only file system/g)?.length).toBe(2);
  });
});

describe.skipIf(!canMount)("the life of a FUSE mount", () => {
  test.each([
    ["a missing mount point", () => ({ mountpoint: join(fixture.dir, "nowhere") }), "ENOENT"],
    ["a file as mount point", () => ({ mountpoint: fixture.bootstrapPath }), "EINVAL"],
    ["a missing bootstrap", () => ({ bootstrapPath: join(fixture.dir, "nothing") }), "ENOENT"],
    ["a bootstrap of noise", () => ({ bootstrapPath: fixture.blobPath }), "EUCLEAN"],
    ["a device too few", () => ({ devices: [] }), "EINVAL"],
  ] as const)("fails for %s and leaves nothing", async (_, options, code) => {
    expect(await codeOf(mount(options()))).toBe(code);
  });

  test("a second mount at the same place fails with EBUSY and leaves the first", async () => {
    await mount();
    const first = session;
    expect(await codeOf(mount())).toBe("EBUSY");
    session = first;
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
  });

  test("ends when it is unmounted from outside", async () => {
    const { done } = await mount();
    await shell(`umount ${fixture.mountpoint}`);
    await done;
  });

  test("unmount() lets those who have files open read on, and ends with the last of them", async () => {
    const { done, unmount } = await mount();
    let ended = false;
    done.then(
      () => {
        ended = true;
      },
      () => undefined,
    );
    const script = 'exec 3< "$0"; echo open; read line; cat <&3 | sha256sum';
    const reader = Bun.spawn(["bash", "-c", script, join(fixture.mountpoint, "big")], {
      stdin: "pipe",
      stdout: "pipe",
    });
    const output = reader.stdout.getReader();
    await output.read();
    await unmount.call(session);
    expect(findMount(fixture.mountpoint)).toBeUndefined();
    expect(errors.map((error) => error.code)).toEqual(["EBUSY"]);
    expect(ended).toBe(false);
    reader.stdin.write("go\n");
    reader.stdin.end();
    const { value } = await output.read();
    expect(new TextDecoder().decode(value)).toBe(await shell(`sha256sum < ${fixture.source}/big`));
    await done;
  });

  test("disposing takes the mount from those who have files open: they get an error, not a hang", async () => {
    device.before = () => new Promise(() => undefined);
    await mount();
    const reader = run("cat", join(fixture.mountpoint, "big"));
    while (device.asked.length === 0) await Bun.sleep(10);
    await session?.[Symbol.asyncDispose]();
    expect((await reader).status).toBe(1);
  });

  test("disposing ends a mount that has been unmounted and is still in use", async () => {
    await mount();
    const holder = Bun.spawn(["sh", "-c", "echo in; exec sleep 60"], { cwd: fixture.mountpoint, stdout: "pipe" });
    try {
      await holder.stdout.getReader().read();
      await session?.unmount();
      expect(findMount(fixture.mountpoint)).toBeUndefined();
      await session?.[Symbol.asyncDispose]();
      await session?.done;
    } finally {
      holder.kill();
      await holder.exited;
    }
  });

  test("serves a damaged image without a hang or a crash: what is broken fails, what is not is shown", async () => {
    const seed = 11;
    const image = new Uint8Array(readFileSync(fixture.bootstrapPath));
    let state = seed;
    for (let i = 0; i < 300; i++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      image[4096 + (state % (image.length - 4096))] = state >>> 24;
    }
    const bootstrapPath = join(fixture.dir, "damaged.boot");
    writeFileSync(bootstrapPath, image);
    expect(await codeOf(mount({ bootstrapPath }))).toBe("none");
    await run("bash", "-c", `find ${fixture.mountpoint} -ls; find ${fixture.mountpoint} -type f -exec cat {} + `);
    expect((await run("stat", fixture.mountpoint)).status).toBe(0);
  });
});

describe.skipIf(!canMount)("golden images of nydus-image through FUSE", () => {
  const golden = smallGolden();

  /** Where nydus-image itself departs from what it packed: nanoseconds, times of hard links and of the root. */
  function isDeparture(field: keyof TreeEntry, left: TreeEntry, right: TreeEntry): boolean {
    if (field !== "mtime") return false;
    const nanosecondsDropped = `${left.mtime.slice(0, -9)}000000000` === right.mtime;
    return nanosecondsDropped || (left.nlink ?? 1) > 1 || left.path === "/" || left.mtime === "0";
  }

  test("v6-zstd-blake3-64k shows the tree that umoci unpacks", async () => {
    const dir = join(golden, "rafs", "v6-zstd-blake3-64k");
    const bootstrapPath = join(dir, "merged.boot");
    const rafs = openRafs(readFileSync(bootstrapPath));
    const devices = rafs.blobs.map((blob, i) => {
      const chunks = rafs.chunkMap(i);
      return new RawDevice(decodeBlob(readFileSync(join(dir, "blobs", blob.id)), chunks, blob.deviceBytes), chunks);
    });
    try {
      await mount({ bootstrapPath, devices });
      const shown = await treeOf(fixture.mountpoint);
      expect(diffTrees(readTree(join(golden, "tree.jsonl")), shown, { ignore: isDeparture })).toEqual([]);
    } finally {
      await session?.[Symbol.asyncDispose]();
      for (const device of devices) device[Symbol.dispose]();
    }
  });
});
