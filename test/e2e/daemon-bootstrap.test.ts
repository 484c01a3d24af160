import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMount } from "../../src/os/mount.ts";
import { DaemonMounts } from "../../src/service/snapshotter/daemon-mounts.ts";
import type { SnapshotImage } from "../../src/service/snapshotter/image-mounts.ts";
import { unpackImage } from "../kit/bootstrap-dir.ts";
import { canRunContainerd, startContainerd } from "../kit/containerd-lab.ts";
import { DaemonHome, untilGone } from "../kit/daemon.ts";
import { type DockerRegistry, hasDockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { holdersOf } from "../kit/failover-lab.ts";
import { startFakeRegistry } from "../kit/fake-registry.ts";
import { smallGolden } from "../kit/golden.ts";
import { isBuilt } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../kit/tree.ts";
import { failureOf } from "../suite/byte-source.ts";

setDefaultTimeout(120_000);

const canMount = isBuilt && process.getuid?.() === 0 && existsSync("/dev/fuse");
const hasTools = hasDockerRegistry && spawnSync("skopeo", ["--version"]).status === 0;
const GOLDEN = smallGolden();
const IMAGES = join(GOLDEN, "images");
const REFS = ["nydus", "nerdctl-nydus"] as const;
const REF_LABEL = "containerd.io/snapshot/cri.image-ref";

interface Layer {
  readonly digest: string;
  readonly size: number;
}

let shared: string;
let registry: DockerRegistry;
let home: DaemonHome;
let mounts: DaemonMounts;
let logged: string[];

beforeAll(async () => {
  if (!canMount || !hasTools) return;
  shared = mkdtempSync(join(tmpdir(), "nydus-daemon-bootstrap-"));
  registry = await startDockerRegistry();
  for (const ref of REFS) {
    const to = `docker://${registry.host}/test/image:${ref}`;
    await shell(`skopeo copy --quiet --dest-tls-verify=false oci:${IMAGES}:${ref} ${to}`);
    await unpackBootstrap(ref, join(shared, ref));
  }
});
afterAll(async () => {
  if (!canMount || !hasTools) return;
  await registry[Symbol.asyncDispose]();
  rmSync(shared, { recursive: true, force: true });
});
beforeEach(() => {
  home = new DaemonHome();
  logged = [];
  mounts = daemonMounts();
});
afterEach(async () => {
  await mounts[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
});

function daemonMounts(containerdAddress = join(home.dir, "no-containerd.sock")): DaemonMounts {
  const command = home.command("daemon", "run", "--idle-timeout", "60s");
  const log = (message: string): void => void logged.push(message);
  // Images of nydusify have themselves prefetched whole.
  return new DaemonMounts({ root: home.root, containerdAddress, command, log, prefetch: "none" });
}

function layersOf(ref: string): Layer[] {
  const index = JSON.parse(readFileSync(join(IMAGES, "index.json"), "utf8")) as {
    manifests: { digest: string; annotations: Record<string, string> }[];
  };
  const named = index.manifests.find((one) => one.annotations["org.opencontainers.image.ref.name"] === ref);
  return (JSON.parse(readFileSync(blobPath(named?.digest ?? ""), "utf8")) as { layers: Layer[] }).layers;
}

function blobPath(digest: string): string {
  return join(IMAGES, "blobs", ...digest.split(":"));
}

/** As containerd unpacks it: by tar(1), as root. */
async function unpackBootstrap(ref: string, dir: string): Promise<void> {
  mkdirSync(dir);
  await shell(`tar -xzf ${blobPath(layersOf(ref).at(-1)?.digest ?? "")} -C ${dir}`);
}

interface SnapshotOptions {
  readonly bootstrapDir?: string;
  /** What the label says; the registry's image unless given. */
  readonly image?: string | undefined;
}

function snapshot(name: string, options: SnapshotOptions = {}): SnapshotImage {
  const image = "image" in options ? options.image : `${registry.host}/test/image:nydus`;
  return {
    snapshotId: name,
    name: `default/1/${name}`,
    bootstrapDir: options.bootstrapDir ?? join(shared, "nydus"),
    mountpoint: join(home.dir, "mnt", name),
    labels: new Map(image === undefined ? [] : [[REF_LABEL, image]]),
  };
}

async function mountAs(name: string, options?: SnapshotOptions): Promise<string> {
  const image = snapshot(name, options);
  await mounts.mount(image, new AbortController().signal);
  return image.mountpoint;
}

/** Where nydus-image departs from the tree: times. */
function isTime(field: keyof TreeEntry): boolean {
  return field === "mtime";
}

async function treeDifferences(mountpoint: string): Promise<string[]> {
  return diffTrees(readTree(join(GOLDEN, "tree.jsonl")), await treeOf(mountpoint), { ignore: isTime });
}

/** Files of the image with bytes in them, by path. */
function filesOfTree(): TreeEntry[] {
  const plain = /^[\w/.-]+$/;
  return readTree(join(GOLDEN, "tree.jsonl")).filter(
    ({ type, size = 0, path }) => type === "file" && size > 0 && plain.test(path),
  );
}

/** Reads a file in a process of its own: its reader may have to wait. @returns its SHA-256, or what went wrong */
async function read(mountpoint: string, { path }: TreeEntry): Promise<string> {
  const { stdout, stderr, status } = await run("sha256sum", join(mountpoint, path));
  return status === 0 ? stdout.slice(0, 64) : (/: ([^:]+)\n$/.exec(stderr)?.[1] ?? stderr);
}

/** @param withHolder so that nobody brings its mounts back */
async function killDaemon(withHolder: boolean): Promise<void> {
  const pid = await home.pid();
  const pids = [...(withHolder ? holdersOf(pid) : []), pid];
  for (const one of pids) process.kill(one, "SIGSTOP"); // none sees another's end
  for (const one of pids) process.kill(one, "SIGKILL");
  await untilGone(pid);
}

const describeHere = describe.skipIf(!canMount || !hasTools);

describeHere("an image whose bootstrap layer has been unpacked", () => {
  test.each(REFS)("of ref %s shows its tree, from the registry", async (ref) => {
    const at = await mountAs("a", { bootstrapDir: join(shared, ref), image: `${registry.host}/test/image:${ref}` });
    expect(await treeDifferences(at)).toEqual([]);
    expect(mounts.isMounted(at)).toBe(true);
    const options = findMount(at)?.options.split(",") ?? [];
    expect(options.filter((one) => ["nosuid", "nodev", "rw"].includes(one))).toEqual([]);
    await mounts.umount(at);
    expect([mounts.isMounted(at), findMount(at)]).toEqual([false, undefined]);
  });

  test("is mounted with the registry gone: what is cached is read, the rest fails, and works once it is back", async () => {
    const at = await mountAs("a");
    const [warm, cold] = [
      filesOfTree().find(({ size = 0 }) => size < 4096),
      filesOfTree().findLast(({ size = 0 }) => size > 100_000),
    ];
    if (warm === undefined || cold === undefined) throw new Error("the golden tree has no such files");
    expect(await read(at, warm)).toBe(warm.sha256 as string);
    await mounts.umount(at);
    await home.ok("daemon", "stop");
    await registry.stop();
    try {
      await mountAs("a");
      expect(await read(at, warm)).toBe(warm.sha256 as string);
      expect(await read(at, cold)).toBe("Input/output error");
    } finally {
      await registry.start();
    }
    expect(await read(at, cold)).toBe(cold.sha256 as string);
    expect(await treeDifferences(at)).toEqual([]);
    await mounts.umount(at);
  });

  test("with everything cached needs nobody, whatever the label says", async () => {
    const at = await mountAs("a");
    expect(await treeDifferences(at)).toEqual([]);
    await mounts.umount(at);
    await home.ok("daemon", "stop");
    for (const image of [undefined, "127.0.0.1:1/gone:1", "$(reboot)"]) {
      await mountAs("a", { image });
      expect(await treeDifferences(at)).toEqual([]);
      await mounts.umount(at);
    }
  });

  test("survives whoever asked for it, and is known to the next one", async () => {
    const at = await mountAs("a");
    await mounts[Symbol.asyncDispose]();
    const next = daemonMounts();
    const pid = await home.pid();
    expect(next.isMounted(at)).toBe(true);
    await next.mount(snapshot("a"), new AbortController().signal);
    expect(await home.pid()).toBe(pid);
    expect(JSON.parse(await home.ok("daemon", "status", "--json"))).toMatchObject({ mounts: 1 });
    await next.umount(at);
  });

  test("goes on after the daemon was killed, for a program that sits in it, and for who asks for it meanwhile", async () => {
    const at = await mountAs("a");
    await using sitting = sitIn(at);
    await sitting.ready;
    const before = findMount(at)?.mountId;
    await killDaemon(false);
    await mountAs("a");
    expect([mounts.isMounted(at), findMount(at)?.mountId]).toEqual([true, before]);
    expect(await treeDifferences(at)).toEqual([]);
    expect((await run("ls", `/proc/${sitting.pid}/cwd/`)).status).toBe(0);
    await killDaemon(false);
    await expect(mounts.umount(at)).rejects.toMatchObject({ code: "EBUSY" });
    await sitting[Symbol.asyncDispose]();
    await mounts.umount(at);
    expect(findMount(at)).toBeUndefined();
  });

  test("comes back after daemon and holder were killed, while a program still sits in the dead mount", async () => {
    const at = await mountAs("a");
    await using sitting = sitIn(at);
    await sitting.ready;
    const before = findMount(at)?.mountId;
    await killDaemon(true);
    expect(mounts.isMounted(at)).toBe(false);
    await mountAs("a");
    expect([mounts.isMounted(at), findMount(at)?.mountId === before]).toEqual([true, false]);
    expect(await treeDifferences(at)).toEqual([]);
    await mounts.umount(at);
    expect(findMount(at)).toBeUndefined();
  });

  test("comes back, too, where nothing is known of the dead mount any more", async () => {
    const at = await mountAs("a");
    await killDaemon(true);
    rmSync(join(home.root, "mounts"), { recursive: true });
    expect(mounts.isMounted(at)).toBe(false);
    await mountAs("a");
    expect(await treeDifferences(at)).toEqual([]);
    await killDaemon(true);
    rmSync(join(home.root, "mounts"), { recursive: true });
    await mounts.umount(at);
    expect(findMount(at)).toBeUndefined();
  });

  test("is not taken from a program that reads it, and goes on below an overlay that has it", async () => {
    const at = await mountAs("a");
    const sitting = sitIn(at);
    await sitting.ready;
    expect(await failureOf(mounts.umount(at))).toMatchObject({ code: "EBUSY" });
    await sitting[Symbol.asyncDispose]();
    const overlay = home.mountpoint("overlay");
    const lower = `lowerdir=${at}:${home.mountpoint("empty")}`;
    await shell(`mount -t overlay overlay -o ro,${lower} ${overlay}`);
    try {
      await mounts.umount(at);
      expect(findMount(at)).toBeUndefined();
      const [file] = filesOfTree();
      if (file === undefined) throw new Error("the golden tree has no files");
      expect(await read(overlay, file)).toBe(file.sha256 as string);
    } finally {
      await run("umount", overlay);
    }
  });

  test("twenty times at once is mounted by one daemon, fifty callers for each", async () => {
    const [file] = filesOfTree();
    if (file === undefined) throw new Error("the golden tree has no files");
    const names = Array.from({ length: 20 }, (_, i) => `m${i}`);
    for (const name of names) await shell(`cp -r ${join(shared, "nydus")} ${join(home.dir, name)}`);
    const calls = names.flatMap((name) => Array(50).fill(name) as string[]);
    await Promise.all(calls.map((name) => mountAs(name, { bootstrapDir: join(home.dir, name) })));
    const found = JSON.parse(await home.ok("mounts", "--json")) as { state: string; pid: number; mountpoint: string }[];
    expect(found.map(({ state }) => state)).toEqual(names.map(() => "serving"));
    expect(new Set(found.map(({ pid }) => pid)).size).toBe(1);
    const sums = await Promise.all(found.map(({ mountpoint }) => read(mountpoint, file)));
    expect(new Set(sums)).toEqual(new Set([file.sha256 as string]));
    await Promise.all(found.map(({ mountpoint }) => mounts.umount(mountpoint)));
    expect(JSON.parse(await home.ok("daemon", "status", "--json"))).toMatchObject({ mounts: 0, images: 0 });
  });

  test("keeps its caches from a sweep while it is mounted", async () => {
    const at = await mountAs("a");
    expect(await treeDifferences(at)).toEqual([]);
    const ids = layersOf("nydus").map(({ digest }) => digest.slice(7));
    const usage = async (): Promise<number[]> => Promise.all(ids.map((id) => mounts.blobUsageBytes(id)));
    const full = await usage();
    expect(full.filter((bytes) => bytes > 0).length).toBe(ids.length - 1);
    await mounts.sweep(new Set());
    const kept = await usage();
    expect(kept.map((bytes, i) => bytes >= (full[i] ?? 0))).toEqual(ids.map(() => true));
    await mounts.umount(at);
    await mounts.sweep(new Set(ids.slice(0, 1)));
    expect((await usage()).map((bytes) => bytes > 0)).toEqual(ids.map((_, i) => i === 0));
  });

  test("that is bad is refused, and the daemon goes on", async () => {
    const bad = join(home.dir, "bad");
    mkdirSync(join(bad, "image"), { recursive: true });
    symlinkSync(join(shared, "nydus", "image", "image.boot"), join(bad, "image", "image.boot"));
    expect(await failureOf(mountAs("bad", { bootstrapDir: bad }))).toMatchObject({ code: "EUCLEAN" });
    rmSync(join(bad, "image", "image.boot"));
    expect(await failureOf(mountAs("bad", { bootstrapDir: bad }))).toMatchObject({ code: "ENOENT" });
    const good = readFileSync(join(shared, "nydus", "image", "image.boot"));
    writeFileSync(join(bad, "image", "image.boot"), good.subarray(0, good.length >> 1));
    expect(await failureOf(mountAs("bad", { bootstrapDir: bad }))).toMatchObject({ code: "EUCLEAN" });
    expect(mounts.isMounted(join(home.dir, "mnt", "bad"))).toBe(false);
    expect(await treeDifferences(await mountAs("good"))).toEqual([]);
    await mounts.umount(join(home.dir, "mnt", "good"));
  });
});

describe.skipIf(!canMount)("images of one repository in one daemon", () => {
  test("take one token, however many they are and whoever reads first", async () => {
    await using fake = await startFakeRegistry();
    let tokens = 0;
    fake.rules.push((request) => {
      if (request.path.startsWith("/token")) return { status: 200, body: JSON.stringify({ token: `t${++tokens}` }) };
      if (/^Bearer t\d+$/.test(request.headers["authorization"] ?? "")) return undefined;
      const challenge = `Bearer realm="${fake.origin}/token",scope="repository:a/b:pull"`;
      return { status: 401, headers: { "www-authenticate": challenge } };
    });
    const variants = readdirSync(join(GOLDEN, "rafs")).filter((name) => name.startsWith("v6-"));
    const images = variants.map((name) => unpackImage(join(GOLDEN, "rafs", name), join(home.dir, name)));
    for (const { blobs } of images) for (const [id, bytes] of blobs) fake.blobs.set(`sha256:${id}`, bytes);
    const image = `${fake.host}/a/b:1`;
    const at = await Promise.all(
      variants.map((name, i) => mountAs(name, { bootstrapDir: images[i]?.dir ?? "", image })),
    );
    for (const differences of await Promise.all(at.map(treeDifferences))) expect(differences).toEqual([]);
    expect(tokens).toBe(1);
    for (const mountpoint of at) await mounts.umount(mountpoint);
  });
});

describe.skipIf(!canMount || !hasTools || !canRunContainerd)("an image whose blobs containerd has", () => {
  test("is read from there; what is collected meanwhile comes from the registry", async () => {
    await using containerd = await startContainerd();
    await mounts[Symbol.asyncDispose]();
    mounts = daemonMounts(containerd.address);
    const blobs = layersOf("nydus").slice(0, -1);
    for (const { digest } of blobs) {
      await shell(
        `ctr -a ${containerd.address} content ingest --expected-digest ${digest} ${digest} < ${blobPath(digest)}`,
      );
      await containerd.ctrOk("content", "label", digest, "containerd.io/gc.root=test");
    }
    const at = await mountAs("a", { image: undefined });
    expect(await treeDifferences(at)).toEqual([]);
    await mounts.umount(at);
    await home.ok("cache", "gc", "--max-size", "0");
    await mountAs("a");
    const [first, ...others] = filesOfTree();
    if (first === undefined) throw new Error("the golden tree has no files");
    expect(await read(at, first)).toBe(first.sha256 as string);
    await containerd.ctrOk("content", "rm", ...blobs.map(({ digest }) => digest));
    for (const file of others.slice(-3)) expect(await read(at, file)).toBe(file.sha256 as string);
    expect(await treeDifferences(at)).toEqual([]);
    await mounts.umount(at);
  });
});

/** A program whose working directory is below a mount. */
function sitIn(dir: string): AsyncDisposable & { readonly pid: number; readonly ready: Promise<void> } {
  const child = spawn("sh", ["-c", "echo here; exec sleep 600"], { cwd: dir, stdio: ["ignore", "pipe", "ignore"] });
  const ready = new Promise<void>((resolve) => child.stdout.once("data", () => resolve()));
  const end = async (): Promise<void> => {
    const exited = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await exited;
  };
  return { pid: child.pid ?? 0, ready, [Symbol.asyncDispose]: end };
}
