import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../src/base/errors.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import type { MountHost, MountOptions, MountSession } from "../../src/operation/mount/engine.ts";
import { openErofsHost } from "../../src/operation/mount/erofs/engine.ts";
import { type MappedFile, mapFile } from "../../src/os/mmap.ts";
import { findMount } from "../../src/os/mount.ts";
import { canMountErofs, isAlive, kernelBugs, type LabImage, makeLabImage } from "../kit/erofs-lab.ts";
import { smallGolden } from "../kit/golden.ts";
import { decodeBlob, RawDevice } from "../kit/raw-device.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../kit/tree.ts";

setDefaultTimeout(60_000);
const canMount = canMountErofs();

let dir: string;
let mountpoint: string;
let image: LabImage;
let host: MountHost;
let sessions: MountSession[] = [];
let devices: RawDevice[] = [];
let bootstraps: MappedFile[] = [];
let errors: NydusError[] = [];
let bugsBefore: string[] = [];

interface TestOptions extends Partial<Omit<MountOptions, "bootstrap">> {
  readonly bootstrapPath?: string;
}

async function mount({ bootstrapPath = image.bootstrapPath, ...options }: TestOptions = {}): Promise<MountSession> {
  const bootstrap = mapFile(bootstrapPath);
  bootstraps.push(bootstrap);
  const onError = (error: NydusError): void => void errors.push(error);
  const session = await host.mount({ mountpoint, bootstrap, devices: openDevices(image), onError, ...options });
  sessions.push(session);
  return session;
}

/** Devices of an image, closed after the test. */
function openDevices(of: LabImage): RawDevice[] {
  const opened = of.openDevices();
  devices.push(...opened);
  return opened;
}

async function dropCaches(): Promise<void> {
  await shell("sync; echo 3 > /proc/sys/vm/drop_caches");
}

/** Inode numbers that any fanotify group of this process has marked. */
function markedInodes(): number[] {
  return readdirSync("/proc/self/fdinfo").flatMap((fd) => {
    try {
      const text = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
      return [...text.matchAll(/^fanotify ino:([0-9a-f]+)/gm)].map((found) => Number.parseInt(found[1] as string, 16));
    } catch {
      return []; // the descriptor of the listing itself
    }
  });
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !condition(); waited += 20) {
    if (waited > 10_000) throw new Error(`it does not come: ${what}`);
    await Bun.sleep(20);
  }
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

/** Reads files in another process and says which differ from the image, and which fail. */
async function readAll(files: ReadonlyMap<string, Uint8Array>, at = mountpoint): Promise<string> {
  const list = [...files].map(([name, bytes]) => `${new Bun.SHA256().update(bytes).digest("hex")}  ${name}`);
  const path = join(dir, "sums");
  writeFileSync(path, `${list.join("\n")}\n`);
  const { stdout, stderr, status } = await run("sh", "-c", `cd ${at} && sha256sum --quiet -c ${path}`);
  return status === 0 ? "same" : `${stdout}${stderr}`;
}

beforeAll(async () => {
  if (!canMount) return;
  dir = mkdtempSync(join(tmpdir(), "nydus-erofs-"));
  mountpoint = join(dir, "mnt");
  mkdirSync(mountpoint);
  image = makeLabImage(dir, { blobs: 2, filesPerBlob: 4, fileBytes: 150_000 });
  host = openErofsHost();
  bugsBefore = await kernelBugs();
});

afterAll(async () => {
  if (!canMount) return;
  await host[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
  // the log is a ring: what was in it may be gone
  expect((await kernelBugs()).filter((line) => !bugsBefore.includes(line))).toEqual([]);
});

afterEach(async () => {
  if (!canMount) return;
  for (const session of sessions) await session[Symbol.asyncDispose]();
  for (const bootstrap of bootstraps) bootstrap.close();
  for (const device of devices) device[Symbol.dispose]();
  const left = findMount(mountpoint)?.type;
  while ((await run("umount", "-l", mountpoint)).status === 0);
  [sessions, bootstraps, devices, errors] = [[], [], [], []];
  expect(left).toBeUndefined();
});

describe.skipIf(!canMount)("an EROFS mount over marked files", () => {
  test("shows nothing but what was fetched for the reads, and every byte right", async () => {
    const session = await mount();
    expect(findMount(mountpoint)).toMatchObject({ type: "erofs" });
    expect(findMount(mountpoint)?.options.split(",")).toEqual(expect.arrayContaining(["ro", "nosuid", "nodev"]));
    expect(devices.map(({ asked }) => asked)).toEqual([[], []]);
    await shell(`ls -lR ${mountpoint} > /dev/null`);
    expect(devices.map(({ asked }) => asked)).toEqual([[], []]);
    await shell(`head -c 10 ${mountpoint}/b1f2 > /dev/null`);
    expect(devices[0]?.asked).toEqual([]);
    expect(devices[1]?.asked.length).toBeGreaterThan(0);
    expect(await readAll(image.files)).toBe("same");
    await dropCaches();
    expect(await readAll(image.files)).toBe("same");
    expect(errors).toEqual([]);
    expect(session.stats().waitingReads).toBeGreaterThan(0);
  });

  test("serves read, pread, mmap, sendfile and splice of cold data", async () => {
    await mount();
    const script = `
import mmap, os, sys
m, want = sys.argv[1], sys.argv[2]
data = open(want, "rb").read()
n = len(data) // 8
part = lambda i: data[i * n:(i + 1) * n]
path = lambda b, f: f"{m}/b{b}f{f}"
assert open(path(0, 0), "rb").read() == part(0)
fd = os.open(path(0, 1), os.O_RDONLY)
for at in (149999, 65530, 0, 131072): assert os.pread(fd, 20, at) == part(1)[at:at + 20], at
f = open(path(0, 2), "rb"); view = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
assert view[140000:140010] == part(2)[140000:140010]; assert view[:] == part(2)
src = os.open(path(0, 3), os.O_RDONLY); r, w = os.pipe()
out = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
at = 0
while at < n: at += os.sendfile(out, src, at, n - at)
assert os.pread(out, n, 0) == part(3)
src = os.open(path(1, 0), os.O_RDONLY); got = b""
while len(got) < n:
    k = os.splice(src, w, 4096); got += os.read(r, k)
assert got == part(4)
print("same")
`;
    const want = join(dir, "want");
    writeFileSync(want, Buffer.concat([...image.files.values()]));
    const { stdout, stderr } = await run("python3", "-c", script, mountpoint, want, join(dir, "out"));
    expect([stdout, stderr]).toEqual(["same\n", ""]);
  });

  test("gives many readers at once the right bytes, each chunk filled once or joined", async () => {
    await mount();
    const names = [...image.files.keys()].map((name) => `${mountpoint}/${name}`).join(" ");
    const sums = await Promise.all(Array.from({ length: 16 }, () => shell(`cat ${names} | sha256sum`)));
    const wanted = new Bun.SHA256();
    for (const bytes of image.files.values()) wanted.update(bytes);
    expect(new Set(sums)).toEqual(new Set([`${wanted.digest("hex")}  -\n`]));
  });

  test.each(["EBADMSG", "EPERM", "ENOSPC", "EIO"] as const)(
    "turns a device's %s into EIO and asks again",
    async (code) => {
      await mount();
      for (const device of devices) {
        device.before = async () => {
          throw new NydusError(code, "Cannot fetch chunk: broken on purpose");
        };
      }
      const { status, stderr } = await run("cat", `${mountpoint}/b0f0`);
      expect([status, stderr]).toEqual([1, expect.stringContaining("Input/output error")]);
      expect(errors.map((error) => error.code)).toContain(code);
      for (const device of devices) device.before = async () => undefined;
      expect(await readAll(image.files)).toBe("same");
    },
  );

  test("fails a read that gets no data with EIO at its deadline, and serves others meanwhile", async () => {
    await mount({ readTimeoutMs: 700 });
    const [first] = devices;
    if (first !== undefined) first.before = () => new Promise(() => undefined);
    const stuck = run("cat", `${mountpoint}/b0f0`);
    expect(await shell(`sha256sum < ${mountpoint}/b1f0`)).toBe(await sumOf("b1f0"));
    const { status, stderr } = await stuck;
    expect([status, stderr]).toEqual([1, expect.stringContaining("Input/output error")]);
    expect(errors.map((error) => error.code)).toContain("ETIMEDOUT");
  });

  test("fails a read with EIO also when the thread that brings data is stuck", async () => {
    await mount({ readTimeoutMs: 200 });
    for (const device of devices) {
      device.before = async () => {
        device.before = async () => undefined;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 7_000);
      };
    }
    // The kernel asks once more after a failed read-ahead, so the reader may have its data in the end.
    await run("cat", join(mountpoint, "b0f0"));
    expect(errors.map((error) => error.message).join()).toContain("did not answer in time");
    expect(await readAll(image.files)).toBe("same");
  });

  // A path as fsconfig(2) takes it has at most 255 bytes, and mount(2) takes a page of options.
  test.each([128, 254])("mounts %i blobs from a place with a long path, and reads each", async (blobs) => {
    const place = join(dir, ...Array.from({ length: 5 }, () => "p".repeat(200)), `${blobs}`);
    const many = makeLabImage(place, { blobs, filesPerBlob: 1, fileBytes: 9000, seed: 3 });
    const target = join(place, "mnt");
    mkdirSync(target);
    const session = await mount({
      bootstrapPath: many.bootstrapPath,
      mountpoint: target,
      devices: openDevices(many),
    });
    expect(await readAll(many.files, target)).toBe("same");
    await session[Symbol.asyncDispose]();
    expect(findMount(target)).toBeUndefined();
  });

  test("refuses devices that do not fit the image, other file systems' images and occupied places", async () => {
    expect(await codeOf(mount({ devices: [] }))).toBe("EINVAL");
    const noise = join(dir, "noise");
    writeFileSync(noise, image.devices[0] as Uint8Array);
    expect(await codeOf(mount({ bootstrapPath: noise }))).toBe("EUCLEAN");
    expect(await codeOf(mount({ mountpoint: join(dir, "nowhere") }))).toBe("ENOENT");
    await mount();
    expect(await codeOf(mount())).toBe("EBUSY");
    expect(await readAll(image.files)).toBe("same");
  });
});

/** All that a process says until its end. */
async function restOf(reader: { read(): Promise<{ done: boolean; value?: Uint8Array | undefined }> }): Promise<string> {
  let text = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    text += new TextDecoder().decode(piece.value);
  }
  return text;
}

async function sumOf(name: string): Promise<string> {
  return `${new Bun.SHA256().update(image.files.get(name) as Uint8Array).digest("hex")}  -\n`;
}

describe.skipIf(!canMount)("marks of an EROFS mount", () => {
  test("go when all is there, and are back for the next mount of the same data", async () => {
    const first = await mount();
    const shared = devices.slice();
    expect(markedInodes().length).toBe(2);
    expect(await readAll(image.files)).toBe("same");
    await until(() => markedInodes().length === 0, "no marks");
    await dropCaches();
    const before = first.stats().requests;
    expect(await readAll(image.files)).toBe("same");
    expect(first.stats().requests).toBe(before);
    // Another image of the same blobs that knows more of them: the first one's marks come back too.
    const second = join(dir, "second");
    mkdirSync(second);
    const missing = new Uint8Array(shared[0]?.ready.length ?? 0);
    const twin = shared.map((device) => ({ ...twinOf(device), ready: missing.slice() }));
    await mount({ mountpoint: second, devices: twin });
    try {
      expect(markedInodes().length).toBe(2);
      await dropCaches();
      expect(await readAll(image.files)).toBe("same");
    } finally {
      await sessions.pop()?.[Symbol.asyncDispose]();
    }
    await until(() => markedInodes().length === 0, "no marks again");
  });

  test("stay while a byte is missing in any of two images of the same data", async () => {
    const partial = makeLabImage(dir, { blobs: 2, filesPerBlob: 4, fileBytes: 150_000, without: 3 });
    const own = openDevices(image);
    await mount({ devices: own });
    const rafs = openRafs(new Uint8Array(readFileSync(partial.bootstrapPath)));
    const second = join(dir, "partial");
    mkdirSync(second, { recursive: true });
    const sharing = own.map((device, i) => sharingOf(device, rafs.chunkMap(i)));
    await mount({ bootstrapPath: partial.bootstrapPath, mountpoint: second, devices: sharing });
    const names = [...partial.files.keys()].map((name) => `${second}/${name}`).join(" ");
    await shell(`cat ${names} > /dev/null`);
    await Bun.sleep(1_500);
    expect(markedInodes().length).toBe(2);
    expect(await readAll(image.files)).toBe("same");
    await until(() => markedInodes().length === 0, "no marks");
    await sessions.pop()?.[Symbol.asyncDispose]();
  });

  test("50 mounts and unmounts leave no descriptor and no mark", async () => {
    const own = openDevices(image);
    const count = (): number => readdirSync("/proc/self/fd").length;
    const bootstrap = mapFile(image.bootstrapPath);
    bootstraps.push(bootstrap);
    const once = async (): Promise<void> => {
      const session = await host.mount({ mountpoint, bootstrap, devices: own });
      await shell(`head -c 1 ${mountpoint}/b0f0 > /dev/null`);
      await session.unmount();
      await session.done;
    };
    await once();
    const before = count();
    for (let i = 0; i < 50; i++) await once();
    expect(count()).toBe(before);
    expect(markedInodes()).toEqual([]);
  });
});

/** The same device to another mount. */
function twinOf(device: RawDevice): { -readonly [Field in "chunks" | "fd" | "ready" | "ensure"]: RawDevice[Field] } {
  const { chunks, fd, ready } = device;
  return { chunks, fd, ready: ready.slice(), ensure: async () => undefined };
}

/** The same data file, as an image with other chunks knows it: its bits are its own. */
function sharingOf(
  device: RawDevice,
  chunks: RawDevice["chunks"],
): Parameters<MountHost["mount"]>[0]["devices"][number] {
  const ready = new Uint8Array(new SharedArrayBuffer(Math.ceil(chunks.count / 8)));
  return {
    chunks,
    fd: device.fd,
    ready,
    ensure: async (range, options) => {
      await device.ensure(range, options);
      for (let i = 0; i < chunks.count; i++) {
        const start = chunks.deviceOffset(i);
        const isIn = start < range.end && start + chunks.sizeBytes(i) > range.start;
        if (isIn) Atomics.store(ready, i >> 3, Atomics.load(ready, i >> 3) | (1 << (i & 7)));
      }
    },
  };
}

describe.skipIf(!canMount)("the end of an EROFS mount", () => {
  test("comes when it is unmounted from outside", async () => {
    const { done } = await mount();
    await shell(`umount ${mountpoint}`);
    await done;
    expect(markedInodes()).toEqual([]);
  });

  test("waits for who has files open: they read on, cold data too", async () => {
    const session = await mount();
    let ended = false;
    void session.done.then(() => {
      ended = true;
    });
    const reader = Bun.spawn(
      ["bash", "-c", 'exec 3< "$0"; echo open; read line; sha256sum <&3', `${mountpoint}/b0f3`],
      {
        stdin: "pipe",
        stdout: "pipe",
      },
    );
    const output = reader.stdout.getReader();
    await output.read();
    await session.unmount();
    expect(findMount(mountpoint)).toBeUndefined();
    expect(errors.map((error) => error.code)).toEqual(["EBUSY"]);
    await Bun.sleep(300);
    expect(ended).toBe(false);
    reader.stdin.write("go\n");
    reader.stdin.end();
    expect(new TextDecoder().decode((await output.read()).value)).toBe(await sumOf("b0f3"));
    await session.done;
  });

  test("when it is forced, gives those who have files open EIO for what is not there, never zeros", async () => {
    const session = await mount();
    const script = 'exec 3< "$0"; echo open; read line; cat <&3 | od -An -tx1 | head -n1; echo "$PIPESTATUS"';
    const reader = Bun.spawn(["bash", "-c", script, `${mountpoint}/b0f3`], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    const output = reader.stdout.getReader();
    await output.read();
    await session[Symbol.asyncDispose]();
    await session.done;
    for (const device of devices.splice(0)) device[Symbol.dispose]();
    reader.stdin.write("go\n");
    reader.stdin.end();
    expect(new TextDecoder().decode((await output.read()).value)).toBe("1\n");
    await reader.exited;
    await until(() => markedInodes().length === 0, "no marks");
  });
});

describe.skipIf(!canMount)("when the process that mounts is killed", () => {
  /** Reads the whole tree again and again until it fails; says what it saw. */
  const READER = `
import os, sys, time
m, names, want = sys.argv[1], sys.argv[2].split(","), open(sys.argv[3], "rb").read()
n = len(want) // len(names)
root = os.open(m, os.O_RDONLY)
errors = wrong = reads = 0
end = time.time() + 20
while time.time() < end and errors == 0:
    for i, name in enumerate(names):
        try:
            fd = os.open(name, os.O_RDONLY, dir_fd=root)
            try:
                for at in range(0, n, 4096):
                    got = os.pread(fd, 4096, at)
                    reads += 1
                    if reads == 1: print("reading", flush=True)
                    if got != want[i * n:i * n + n][at:at + 4096]: wrong += 1
            finally: os.close(fd)
        except OSError as e:
            errors += 1
            assert e.errno == 5, e
print("wrong", wrong, "errors", errors > 0, "reads", reads > 0)
`;

  test.each([0, 1, 2])(
    "nobody reads a wrong byte or waits, the mount goes, and so does the guard (%d)",
    async (round) => {
      const kill = makeLabImage(join(dir, "kill"), {
        blobs: 2,
        filesPerBlob: 60,
        fileBytes: 150_000,
        seed: 40 + round,
      });
      const program = join(import.meta.dir, "..", "kit", "erofs-program.ts");
      const child = Bun.spawn([process.execPath, program, kill.bootstrapPath, mountpoint, String(40 + round)], {
        stdout: "pipe",
      });
      const output = child.stdout.getReader();
      const guard = Number(new TextDecoder().decode((await output.read()).value).split(" ")[1]);
      const want = join(dir, "want");
      writeFileSync(want, Buffer.concat([...kill.files.values()]));
      const names = [...kill.files.keys()].join(",");
      const readers = Array.from({ length: 5 }, () =>
        Bun.spawn(["python3", "-c", READER, mountpoint, names, want], { stdout: "pipe", stderr: "pipe" }),
      );
      const outputs = readers.map(({ stdout }) => stdout.getReader());
      for (const reader of outputs) await reader.read();
      await Bun.sleep(100 * round);
      child.kill("SIGKILL");
      await child.exited;
      const results: string[] = [];
      for (const reader of outputs) results.push((await restOf(reader)).trim());
      expect(results).toEqual(results.map(() => "wrong 0 errors True reads True"));
      await until(() => findMount(mountpoint) === undefined, "no mount");
      await until(() => !isAlive(guard), "the end of the guard");
    },
  );

  test("a guard that is killed is replaced", async () => {
    const lab = makeLabImage(join(dir, "kill"), { blobs: 1, filesPerBlob: 4, fileBytes: 150_000, seed: 50 });
    const program = join(import.meta.dir, "..", "kit", "erofs-program.ts");
    const child = Bun.spawn([process.execPath, program, lab.bootstrapPath, mountpoint, "50", "1", "4"], {
      stdout: "pipe",
    });
    try {
      const output = child.stdout.getReader();
      const guard = Number(new TextDecoder().decode((await output.read()).value).split(" ")[1]);
      process.kill(guard, "SIGKILL");
      const next = Number(new TextDecoder().decode((await output.read()).value).split(" ")[1]);
      expect(isAlive(next)).toBe(true);
      await Bun.sleep(500);
      child.kill("SIGKILL");
      await child.exited;
      expect((await run("cat", join(mountpoint, "b0f0"))).status).not.toBe(0);
      await until(() => findMount(mountpoint) === undefined, "no mount");
      await until(() => !isAlive(next), "the end of the guard");
    } finally {
      child.kill("SIGKILL");
    }
  });
});

describe.skipIf(!canMount)("golden images of nydus-image through EROFS", () => {
  const golden = smallGolden();

  /** Where nydus-image itself departs from what it packed: nanoseconds, times of hard links and of the root. */
  function isDeparture(field: keyof TreeEntry, left: TreeEntry, right: TreeEntry): boolean {
    if (field !== "mtime") return false;
    const nanosecondsDropped = `${left.mtime.slice(0, -9)}000000000` === right.mtime;
    return nanosecondsDropped || (left.nlink ?? 1) > 1 || left.path === "/" || left.mtime === "0";
  }

  test.each(["v6-zstd-blake3-64k"])("%s shows the tree that umoci unpacks", async (name) => {
    const at = join(golden, "rafs", name);
    const bootstrapPath = join(at, "merged.boot");
    const rafs = openRafs(readFileSync(bootstrapPath));
    const raw = rafs.blobs.map((blob, i) => {
      const chunks = rafs.chunkMap(i);
      return new RawDevice(decodeBlob(readFileSync(join(at, "blobs", blob.id)), chunks, blob.deviceBytes), chunks);
    });
    devices.push(...raw);
    await mount({ bootstrapPath, devices: raw });
    // by a shell: who spawns waits for the exec with the very thread that brings the data
    expect((await run("sh", "-c", join(mountpoint, "bin", "app"))).status).toBe(0);
    const shown = await treeOf(mountpoint);
    expect(diffTrees(readTree(join(golden, "tree.jsonl")), shown, { ignore: isDeparture })).toEqual([]);
    expect(errors).toEqual([]);
  });
});

test.skipIf(!canMount)("no descriptor of a data file is left when all mounts have ended", () => {
  const left = readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return /nydus-raw-|nydus-erofs-/.test(target) ? [target] : [];
    } catch {
      return [];
    }
  });
  expect(left).toEqual([]);
});
