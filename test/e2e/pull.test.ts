import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openTarget } from "../../src/content/store/open-store.ts";
import { type DockerRegistry, hasDockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { type FakeRegistry, type FakeRule, startFakeRegistry } from "../kit/fake-registry.ts";
import { smallGolden } from "../kit/golden.ts";
import { canMount } from "../kit/mount-fixture.ts";
import { isBuilt, nydus, nydusOk, PROGRAM } from "../kit/program.ts";
import { Random } from "../kit/random.ts";
import { sampleImage, sha256, writeImage } from "../suite/image-store.ts";

const isRoot = process.getuid?.() === 0;
const LAYER = new Random(5).bytes(8_000_000);
const CUT = 4_800_000;

let base = "";
let serial = 0;

beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), "nydus-e2e-pull-"));
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

function newRoot(): string {
  return join(base, `root-${serial++}`);
}

function names(...path: string[]): string[] {
  const dir = join(...path);
  return existsSync(dir) ? readdirSync(dir).sort() : [];
}

function blobsOf(root: string): string[] {
  return names(root, "content", "blobs", "sha256");
}

function partsOf(root: string): string[] {
  return names(root, "content", "ingest");
}

describe.skipIf(!isBuilt)("nydus pull, with a registry that misbehaves", () => {
  const image = sampleImage("pull", LAYER);
  const blobPath = `/blobs/${image.layer.digest}`;
  let registry: FakeRegistry;
  let name = "";
  let children: ChildProcess[] = [];

  beforeAll(async () => {
    registry = await startFakeRegistry();
    name = `${registry.host}/app:1`;
    await using target = await openTarget(name, { root: newRoot() });
    await writeImage(target, image);
  });
  afterEach(() => {
    registry.rules.length = 0;
    registry.requests.length = 0;
    for (const child of children) child.kill("SIGKILL");
    children = [];
  });
  afterAll(() => registry[Symbol.asyncDispose]());

  /** The layer's first bytes, then silence. */
  const hang: FakeRule = ({ path, method }) =>
    method === "GET" && path.endsWith(blobPath) ? { status: 200, body: LAYER, cutAt: CUT, end: "hang" } : undefined;

  /** Starts a pull, and waits until so many bytes of the layer are on the disk. */
  async function pullUntil(
    root: string,
    bytes: number,
  ): Promise<{ child: ChildProcess; ended: Promise<number | null> }> {
    const child = spawn(PROGRAM, ["--root", root, "--quiet", "pull", name], { stdio: "ignore" });
    children.push(child);
    const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
    const part = join(root, "content", "ingest", `${image.layer.digest.slice(7)}.part`);
    for (let waited = 0; !existsSync(part) || statSync(part).size < bytes; waited++) {
      if (waited > 1000) throw new Error("the transfer does not begin");
      await Bun.sleep(10);
    }
    return { child, ended };
  }

  /** First bytes of what was asked of the layer. */
  function layerStarts(): number[] {
    const asked = registry.requests.filter(({ path, method }) => method === "GET" && path.endsWith(blobPath));
    return asked.map(({ headers }) => Number(/^bytes=(\d+)-/.exec(headers["range"] ?? "bytes=0-")?.[1]));
  }

  test.each([
    ["interrupted", "SIGINT", 130],
    ["killed", "SIGKILL", null],
  ] as const)("goes on after it was %s at 60 %%: the second run fetches 41 %% at most", async (_, signal, status) => {
    const root = newRoot();
    registry.rules.push(hang);
    // What is taken and not written yet is written when the program is told to end; a killed one cannot.
    const { child, ended } = await pullUntil(root, CUT - (256 << 10));
    await Bun.sleep(100);
    child.kill(signal);
    expect(await ended).toBe(status);
    expect(await nydusOk("--root", root, "images", "-q")).toBe("");
    registry.rules.length = 0;
    registry.requests.length = 0;
    const { fetchedBytes } = JSON.parse(await nydusOk("--root", root, "--json", "--quiet", "pull", name)) as {
      fetchedBytes: number;
    };
    expect(layerStarts()).toHaveLength(1);
    const rest = LAYER.length - (layerStarts()[0] as number);
    expect(fetchedBytes - rest).toBeLessThan(1000);
    expect(rest).toBeGreaterThanOrEqual(LAYER.length - CUT);
    const mostBytes = signal === "SIGINT" ? LAYER.length - CUT : 0.41 * LAYER.length + (256 << 10);
    expect(rest).toBeLessThanOrEqual(mostBytes);
    const blob = readFileSync(join(root, "content", "blobs", "sha256", image.layer.digest.slice(7)));
    expect(sha256(blob)).toBe(image.layer.digest);
    expect(partsOf(root)).toEqual([]);
  });

  test("fetches nothing twice", async () => {
    const root = newRoot();
    await nydusOk("--root", root, "--quiet", "pull", name);
    registry.requests.length = 0;
    await nydusOk("--root", root, "--quiet", "pull", name);
    expect(registry.requests.map(({ path }) => path.replace(/^.*\/(manifests|blobs)\/.*/, "$1"))).toEqual([
      "manifests",
    ]);
  });

  test("run twice at once fetches each blob once", async () => {
    const root = newRoot();
    const runs = await Promise.all([1, 2, 3].map(() => nydus("--root", root, "--quiet", "pull", name)));
    expect(runs.map(({ status, stderr }) => [status, stderr])).toEqual([1, 2, 3].map(() => [0, ""]));
    expect(layerStarts()).toEqual([0]);
  });

  test("refuses a blob with another digest with status 5, and leaves nothing of it", async () => {
    const root = newRoot();
    registry.rules.push(({ path }) =>
      path.endsWith(blobPath) ? { status: 200, body: LAYER.map((byte) => byte ^ 1) } : undefined,
    );
    const { status, stderr } = await nydus("--root", root, "--quiet", "pull", name);
    expect([status, stderr.includes(image.layer.digest)]).toEqual([5, true]);
    expect(partsOf(root)).toEqual([]);
    expect(blobsOf(root)).not.toContain(image.layer.digest.slice(7));
    expect(await nydusOk("--root", root, "images", "-q")).toBe("");
  });

  test.skipIf(!isRoot)("on a full disk ends with status 10, leaves room, and works once there is more", async () => {
    const root = newRoot();
    mkdirSync(root);
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", root]).status).toBe(0);
    try {
      const { status, stderr } = await nydus("--root", root, "--quiet", "pull", name);
      expect([status, stderr.includes(image.layer.digest)]).toEqual([10, true]);
      expect(partsOf(root)).toEqual([]);
      expect(spawnSync("mount", ["-o", "remount,size=40m", root]).status).toBe(0);
      await nydusOk("--root", root, "--quiet", "pull", name);
    } finally {
      spawnSync("umount", ["-l", root]);
    }
  });

  test("--pull says whether the store or the registry tells what a name means", async () => {
    const root = newRoot();
    const [older, newer] = [sampleImage("older"), sampleImage("newer")];
    const moving = `${registry.host}/moving:2`;
    const push = async (pushed: typeof older): Promise<void> => {
      await using target = await openTarget(moving, { root: newRoot() });
      await writeImage(target, pushed);
    };
    const source = async (...flags: string[]): Promise<unknown> => {
      const to = join(base, `converted-${serial++}`);
      const { status, stderr } = await nydus("--root", root, "--quiet", "convert", ...flags, moving, `oci:${to}:x`);
      // Their layers are no tars: which of them was read shows in the error.
      expect(status).not.toBe(0);
      return [older, newer].find(({ layer }) => stderr.includes(layer.digest)) ?? status;
    };
    await push(older);
    expect(await source("--pull", "never")).toBe(3);
    await nydusOk("--root", root, "--quiet", "pull", moving);
    await push(newer);
    expect(await source()).toBe(older);
    expect(await source("--pull", "missing")).toBe(older);
    expect(await source("--pull", "always")).toBe(newer);
    registry.requests.length = 0;
    expect(await source("--pull", "never")).toBe(older);
    expect(registry.requests).toEqual([]);
    await nydusOk("--root", root, "--quiet", "pull", moving);
    expect(await source("--pull", "never")).toBe(newer);
  });

  test("rmi and prune say what they remove and how much that is", async () => {
    const root = newRoot();
    registry.rules.push(hang);
    const { child, ended } = await pullUntil(root, 4_000_000);
    child.kill("SIGTERM");
    await ended;
    registry.rules.length = 0;
    await nydusOk("--root", root, "--quiet", "pull", `docker://${name}`);
    const table = await nydusOk("--root", root, "images", "--digests");
    expect(table.split("\n")[1]?.split(/ {2,}/).slice(0, 3)).toEqual([`${registry.host}/app`, "1", image.root.digest]);
    const removed = await nydusOk("--root", root, "rmi", image.root.digest.slice(7, 19));
    expect(removed).toContain(`Untagged: ${name}@${image.root.digest}\n`);
    expect(removed).toContain(`Deleted: ${image.layer.digest}\n`);
    expect(blobsOf(root)).toEqual([]);
    expect(await nydusOk("--root", root, "prune")).toBe("Total reclaimed space: 0 B\n");
    expect((await nydus("--root", root, "rmi", name)).status).toBe(3);
  });
});

describe.skipIf(!isBuilt || !hasDockerRegistry)("nydus pull from Debian's docker-registry", () => {
  const original = `oci:${smallGolden()}/images:oci`;
  let registry: DockerRegistry;
  let name = "";
  let isUp = true;

  beforeAll(async () => {
    registry = await startDockerRegistry();
    name = `${registry.host}/app:nydus`;
    await nydusOk("--root", newRoot(), "--quiet", "convert", original, name);
  });
  afterAll(() => (isUp ? registry[Symbol.asyncDispose]() : undefined));

  const roots = { whole: "", lazy: "" };
  const [cached, other] = ["/usr/lib/hard3", "/links/target"];

  test("brings an image whole, and lazily", async () => {
    [roots.whole, roots.lazy] = [newRoot(), newRoot()];
    const digest = (await nydusOk("--root", roots.whole, "--quiet", "pull", name)).split(" ")[0];
    expect((await nydusOk("--root", roots.lazy, "--quiet", "pull", "--lazy", name)).split(" ")[0]).toBe(digest);
    const states = await Promise.all(
      [roots.whole, roots.lazy].map(async (root) => {
        const [image] = JSON.parse(await nydusOk("--root", root, "--json", "images")) as {
          kind: string;
          state: string;
        }[];
        return [image?.kind, image?.state, blobsOf(root).length];
      }),
    );
    expect(states).toEqual([
      ["nydus", "complete", 6],
      ["nydus", "lazy", 3],
    ]);
  });

  test("a lazily pulled image is read from the registry where the store lacks it", async () => {
    const content = await nydusOk("--root", roots.lazy, "cat", name, cached);
    expect(content).toBe(await nydusOk("--root", roots.whole, "cat", "--pull", "never", name, cached));
    const { status } = await nydus("--root", roots.lazy, "cat", "--pull", "never", name, cached);
    expect(status).toBe(3);
  });

  test.skipIf(!canMount)("a mounted image is neither removed nor pruned", async () => {
    const mountpoint = join(base, "busy");
    mkdirSync(mountpoint, { recursive: true });
    await nydusOk("--root", roots.whole, "mount", name, mountpoint);
    try {
      const before = blobsOf(roots.whole);
      const { status, stderr } = await nydus("--root", roots.whole, "rmi", name);
      expect([status, stderr.includes(mountpoint)]).toEqual([11, true]);
      await nydusOk("--root", roots.whole, "prune", "--all", "--force");
      expect(blobsOf(roots.whole)).toEqual(before);
      await nydusOk("--root", roots.whole, "rmi", "--force", name);
      await nydusOk("--root", roots.whole, "prune");
      expect(blobsOf(roots.whole)).toEqual(before);
      expect(readFileSync(join(mountpoint, other)).length).toBeGreaterThan(0);
    } finally {
      await nydusOk("--root", roots.whole, "umount", mountpoint);
    }
    await nydusOk("--root", roots.whole, "prune");
    expect([blobsOf(roots.whole), names(roots.whole, "bootstraps")]).toEqual([[], []]);
    await nydusOk("--root", roots.whole, "--quiet", "pull", name);
  });

  test.skipIf(!canMount)("a lazily pulled image mounts; what is read stays", async () => {
    const mountpoint = join(base, "lazy");
    mkdirSync(mountpoint, { recursive: true });
    await nydusOk("--root", roots.lazy, "mount", name, mountpoint);
    try {
      expect(readFileSync(join(mountpoint, cached)).length).toBeGreaterThan(0);
    } finally {
      await nydusOk("--root", roots.lazy, "umount", mountpoint);
    }
  });

  test("with the registry gone a pulled image is all there", async () => {
    await registry[Symbol.asyncDispose]();
    isUp = false;
    await nydusOk("--root", roots.whole, "check", name);
    const tar = async (image: string): Promise<string> => {
      const out = join(base, `out-${serial++}.tar`);
      const done = spawnSync("sh", ["-c", `"$0" --root "$1" unpack "$2" - > "$3"`, PROGRAM, roots.whole, image, out]);
      expect([done.status, done.stderr.toString()]).toEqual([0, ""]);
      return sha256(readFileSync(out));
    };
    const layout = join(base, "layout");
    await nydusOk("--root", newRoot(), "--quiet", "convert", original, `oci:${layout}:x`);
    expect(await tar(name)).toBe(await tar(`oci:${layout}:x`));
  });

  test.skipIf(!canMount)("with the registry gone images mount; what is neither pulled nor cached is EIO", async () => {
    for (const [root, isThere] of [
      [roots.whole, true],
      [roots.lazy, false],
    ] as const) {
      const mountpoint = join(base, `gone-${isThere}`);
      mkdirSync(mountpoint, { recursive: true });
      await nydusOk("--root", root, "mount", "--read-timeout", "2s", name, mountpoint);
      try {
        expect(readFileSync(join(mountpoint, cached)).length).toBeGreaterThan(0);
        const read = (): number => readFileSync(join(mountpoint, "data", "sizes", "t327803")).length;
        if (isThere) expect(read()).toBeGreaterThan(0);
        else expect(read).toThrow("EIO");
      } finally {
        await nydusOk("--root", root, "umount", mountpoint);
      }
    }
    const { status, stderr } = await nydus("--root", roots.lazy, "cat", name, "/data/sizes/t327803");
    expect([status, stderr.includes(registry.host)]).toEqual([7, true]);
  });
});
