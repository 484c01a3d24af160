import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createReadStream, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { NydusError } from "../../src/base/errors.ts";
import {
  type Preparation,
  prepareImage,
  type SnapshotterChoice,
} from "../../src/operation/image/containerd-prepare.ts";
import { type ConvertSummary, convertImage } from "../../src/operation/image/convert.ts";
import { type CopySummary, copyBetween } from "../../src/operation/image/copy-between.ts";
import { type LoadedImage, type LoadRequest, loadImages } from "../../src/operation/image/load.ts";
import { type ContainerdLab, canRunContainerd, startContainerd } from "../kit/containerd-lab.ts";
import { hasDockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { smallGolden } from "../kit/golden.ts";
import { OciDraft } from "../kit/oci-image.ts";
import { type FakeSnapshotter, startFakeSnapshotter } from "../kit/proxy-snapshotter.ts";
import { run, shell } from "../kit/shell.ts";
import { failureOf } from "../suite/byte-source.ts";

const MAIN = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "src", "cli", "main.ts");
const AMD64 = { os: "linux", architecture: "amd64" };
const NYDUS: SnapshotterChoice = { snapshotter: "nydus", isChosen: false };
const signal = new AbortController().signal;

let dir: string;
let images: string;
let snapshotter: FakeSnapshotter;
let lab: ContainerdLab;
let serial = 0;

beforeAll(async () => {
  if (!canRunContainerd) return;
  dir = mkdtempSync(join(tmpdir(), "nydus-ctd-images-"));
  images = join(smallGolden(), "images");
  snapshotter = await startFakeSnapshotter(dir);
  lab = await startContainerd([{ name: "nydus", address: snapshotter.address }]);
}, 60_000);
afterAll(async () => {
  if (!canRunContainerd) return;
  await lab[Symbol.asyncDispose]();
  await snapshotter[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
}, 60_000);

/** A namespace of containerd's that one test has for itself. */
class Space {
  readonly namespace = `space-${serial++}`;
  readonly context = {
    root: join(dir, "root"),
    containerd: { address: lab.address, namespace: this.namespace },
    signal,
  };

  ctr(...args: string[]): Promise<string> {
    return lab.ctrOk("-n", this.namespace, ...args);
  }

  copy(source: string, target: string, more: Partial<Parameters<typeof copyBetween>[0]> = {}): Promise<CopySummary> {
    return copyBetween({ ...this.context, source, target, platforms: [AMD64], prepare: NYDUS, ...more });
  }

  convert(source: string, target: string): Promise<ConvertSummary> {
    return convertImage({
      ...{ ...this.context, source, target, platforms: [], allPlatforms: false, prepare: NYDUS },
      ...{ compressor: "zstd", chunkBytes: 1 << 16, digester: "blake3", annotateSource: false },
    });
  }

  prepare(image: string, name = "nydus"): Promise<Preparation> {
    return prepareImage({ ...this.context, image, snapshotter: name, isChosen: true, platform: AMD64 });
  }

  async load(from: LoadRequest["from"], prepare: SnapshotterChoice = NYDUS): Promise<LoadedImage[]> {
    const loaded: LoadedImage[] = [];
    const onLoaded = async (image: LoadedImage): Promise<void> => void loaded.push(image);
    await loadImages({ ...this.context, from, platforms: [AMD64], prepare, onLoaded });
    return loaded;
  }

  async collect(): Promise<void> {
    await this.ctr("leases", "create", "--id", "collect");
    await this.ctr("leases", "rm", "--sync", "collect");
  }

  /** Labels of each blob, in the order of their keys. */
  async contentLabels(): Promise<Record<string, readonly string[]>> {
    const rows = (await this.ctr("content", "ls")).trim().split("\n").slice(1);
    const cells = rows.map((row) => row.split("\t").filter((cell) => cell !== ""));
    return Object.fromEntries(cells.map((row) => [row[0] ?? "", (row.at(-1) ?? "").split(",").sort()]));
  }

  /** Chain ids of the snapshots, each with its parent's. */
  async snapshots(name: string): Promise<readonly string[]> {
    const rows = (await this.ctr("snapshots", "--snapshotter", name, "ls")).trim().split("\n").slice(1);
    return rows.map((row) => row.replace(/\s+/g, " ").trim()).sort();
  }

  async expectNothingUnderWay(): Promise<void> {
    expect((await this.ctr("leases", "ls", "-q")).trim()).toBe("");
    expect((await this.ctr("content", "active")).trim().split("\n")).toHaveLength(1);
  }
}

test.skipIf(!canRunContainerd)("containerd can be run here", () => expect(lab.address).not.toBe(""));

describe.skipIf(!canRunContainerd)("an image copied into containerd", () => {
  test("has the labels that ctr's import gives it, blob for blob", async () => {
    const [ours, theirs] = [new Space(), new Space()];
    await shell(`skopeo copy -q oci:${images}:oci oci-archive:${dir}/labels.tar:docker.io/library/a:b`);
    await theirs.ctr("images", "import", "--no-unpack", `${dir}/labels.tar`);
    const { digest } = await ours.copy(`oci:${images}:oci`, "containerd:a:b");
    const labels = await ours.contentLabels();
    expect(labels[digest]?.length).toBeGreaterThan(3);
    // ctr keeps the archive's index as well.
    expect(await theirs.contentLabels()).toMatchObject(labels as Record<string, string[]>);
    await ours.expectNothingUnderWay();
  }, 60_000);

  test("is unpacked as ctr's import unpacks it, when a snapshotter is named", async () => {
    const [ours, theirs] = [new Space(), new Space()];
    await shell(`skopeo copy -q oci:${images}:oci docker-archive:${dir}/unpacked.tar:a:b`);
    await theirs.ctr("images", "import", "--snapshotter", "native", `${dir}/unpacked.tar`);
    const native = { snapshotter: "native", isChosen: true };
    const { prepared } = await ours.copy(`docker-archive:${dir}/unpacked.tar`, "containerd:a:b", { prepare: native });
    expect(prepared).toMatchObject({ image: "docker.io/library/a:b", snapshotter: "native", isReady: true });
    expect(await ours.snapshots("native")).toEqual(await theirs.snapshots("native"));
    const uncompressed = (labels: Record<string, readonly string[]>): string[] =>
      Object.values(labels).flatMap((keys) => keys.filter((key) => /uncompressed|gc.ref.snapshot/.test(key)));
    const ownLabels = uncompressed(await ours.contentLabels()).sort();
    expect(ownLabels).toHaveLength(4);
    expect(ownLabels).toEqual(uncompressed(await theirs.contentLabels()).sort());
    expect(await ours.ctr("images", "check", "--snapshotter", "native")).toMatch(/complete \(4\/4\).* true/);
  }, 60_000);

  test("leaves containerd as it was: digests, and every blob, by ctr's export and skopeo", async () => {
    const space = new Space();
    const { digest } = await space.copy(`oci:${images}:nydus`, "containerd:e:x");
    await space.ctr("images", "export", `${dir}/export.tar`, "docker.io/library/e:x");
    // A copy of skopeo's verifies every digest.
    await shell(`skopeo copy -q --preserve-digests oci-archive:${dir}/export.tar oci:${dir}/exported:x`);
    const inspect = await shell(`skopeo inspect --raw oci:${dir}/exported:x | sha256sum`);
    expect(`sha256:${inspect.split(" ", 1)}`).toBe(digest);
    await space.copy("containerd:e:x", `oci-archive:${dir}/back.tar:x`);
    const back = await shell(`skopeo inspect --raw oci-archive:${dir}/back.tar:x | sha256sum`);
    expect(back).toBe(inspect);
  }, 60_000);
});

describe.skipIf(!canRunContainerd)("a Nydus image in containerd", () => {
  test("converted there has its chain of snapshots, and goes with all of it when its name goes", async () => {
    const space = new Space();
    await space.copy(`oci:${images}:oci`, "containerd:plain");
    const { prepared, images: made } = await space.convert("containerd:plain", "containerd:plain:nydus");
    expect(prepared).toEqual({ image: "docker.io/library/plain:nydus", snapshotter: "nydus", isReady: true });
    expect(await space.ctr("images", "check", "--snapshotter", "nydus")).toMatch(/:nydus .*complete \(5\/5\).* true/);
    const chain = await space.snapshots("nydus");
    expect(chain).toHaveLength(4);
    const kept = snapshotter.committed();
    const blobs = made[0]?.layers.map(({ digest }) => digest) ?? [];
    // The lowest blob is its own chain id; the bootstrap is the only layer with files.
    expect(kept.get(blobs[0] as string)?.labels).toMatchObject({
      "containerd.io/snapshot/nydus-blob": "true",
      "containerd.io/snapshot/cri.image-ref": "docker.io/library/plain:nydus",
      "containerd.io/snapshot/cri.layer-digest": blobs[0] as string,
    });
    const bootstraps = [...kept.values()].filter(({ dir: layer }) => existsSync(join(layer, "image", "image.boot")));
    expect(bootstraps.map(({ labels }) => labels["containerd.io/snapshot/nydus-bootstrap"])).toContain("true");
    const labels = Object.values(await space.contentLabels()).flat();
    for (const blob of blobs) expect(labels).toContain(`containerd.io/uncompressed=${blob}`);
    await space.collect();
    expect(await space.snapshots("nydus")).toEqual(chain);
    await space.expectNothingUnderWay();
    await space.ctr("images", "rm", "--sync", "docker.io/library/plain:nydus");
    expect(await space.snapshots("nydus")).toEqual([]);
    expect(Object.keys(await space.contentLabels())).toHaveLength(5);
  }, 60_000);

  test.each(["nydus", "nerdctl-nydus"])(
    "that ctr imported (%s) is prepared afterwards, twice",
    async (reference) => {
      const space = new Space();
      await shell(
        `skopeo copy -q oci:${images}:${reference} oci-archive:${dir}/${reference}.tar:docker.io/library/i:1`,
      );
      await space.ctr("images", "import", "--no-unpack", `${dir}/${reference}.tar`);
      for (const _ of [1, 2]) expect((await space.prepare("i:1")).isReady).toBe(true);
      expect(await space.ctr("images", "check", "--snapshotter", "nydus")).toMatch(/complete.* true/);
      await space.collect();
      expect((await space.snapshots("nydus")).every((row) => row.endsWith("Committed"))).toBe(true);
      await space.expectNothingUnderWay();
    },
    60_000,
  );

  test("is stored all the same where its snapshotter is not, and that is told", async () => {
    const space = new Space();
    const other = { snapshotter: "absent", isChosen: false };
    const { prepared } = await space.copy(`oci:${images}:nydus`, "containerd:n", { prepare: other });
    expect(prepared).toMatchObject({ isReady: false, reason: "containerd has no snapshotter absent" });
    expect((await failureOf(space.prepare("n", "absent"))).code).toBe("ENOENT");
    expect(await space.ctr("images", "ls", "-q")).toContain("docker.io/library/n:latest");
  }, 60_000);

  test("is refused by a snapshotter that does not take its blobs, without a trace", async () => {
    const space = new Space();
    await space.copy(`oci:${images}:nydus`, "containerd:n", { prepare: undefined });
    expect((await failureOf(space.prepare("n", "native"))).code).toBe("ENOTSUP");
    await space.collect();
    expect(await space.snapshots("native")).toEqual([]);
    await space.expectNothingUnderWay();
  }, 60_000);

  test("whose config lies about its bootstrap is not prepared, and leaves no snapshot of it", async () => {
    const space = new Space();
    const draft = new OciDraft(join(dir, "liar"));
    const tar = Buffer.from(await shell(`cd ${dir} && tar cf - --files-from /dev/null | base64`), "base64");
    const layer = { ...draft.addLayer(tar), annotations: { "containerd.io/snapshot/nydus-bootstrap": "true" } };
    const rootfs = { type: "layers", diff_ids: [`sha256:${"0".repeat(64)}`] };
    const config = draft.addJson("application/vnd.oci.image.config.v1+json", { ...AMD64, rootfs, history: [] });
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const root = draft.addJson(mediaType, { schemaVersion: 2, mediaType, config, layers: [layer] });
    const failure = await failureOf(space.copy(draft.name(root, "x"), "containerd:liar"));
    expect(failure.code).toBe("EBADMSG");
    expect(await space.snapshots("nydus")).toEqual([]);
    await space.expectNothingUnderWay();
  }, 60_000);
});

describe.skipIf(!canRunContainerd)("an index of which containerd has one platform", () => {
  test("stays as it is in containerd, and what is missing is named when it is asked for", async () => {
    const space = new Space();
    const draft = new OciDraft(join(dir, "multi"));
    const platforms = ["amd64", "arm64"].map((architecture) => ({ os: "linux", architecture }));
    const manifests = platforms.map((platform, n) => ({
      ...draft.addImage([draft.addLayer(new Uint8Array(10_240).fill(0, n))], platform),
      platform,
    }));
    const root = draft.addIndex(manifests);
    const name = draft.name(root, "multi");
    expect((await space.copy(name, "containerd:multi")).digest).toBe(root.digest as never);
    expect(await space.ctr("images", "ls")).toContain(root.digest);
    const alone = await space.copy("containerd:multi", `oci:${dir}/alone:x`);
    expect(alone.digest).toBe(manifests[0]?.digest as never);
    const all = await failureOf(space.copy("containerd:multi", `oci:${dir}/all:x`, { platforms: "all" }));
    expect(all.code).toBe("ENOENT");
    expect(all.message).toContain("linux/arm64");
    const both = [platforms[0], platforms[1]] as never;
    expect((await failureOf(space.copy(name, `oci:${dir}/both:x`, { platforms: both }))).code).toBe("EINVAL");
    expect((await space.copy(name, `oci:${dir}/whole:x`, { platforms: "all" })).digest).toBe(root.digest as never);
  }, 60_000);
});

describe.skipIf(!canRunContainerd)("nydus load", () => {
  test("gives the images of docker's archives every name that they have there", async () => {
    const space = new Space();
    const path = join(dir, "docker.tar");
    await shell(`skopeo copy -q oci:${images}:oci docker-archive:${path}:one:1 --additional-tag reg.example/two:2`);
    const loaded = await space.load({ stream: createReadStream(path) });
    expect(loaded.map(({ name }) => name)).toEqual(["docker.io/library/one:1", "reg.example/two:2"]);
    expect((await space.ctr("images", "ls", "-q")).trim().split("\n")).toEqual(loaded.map(({ name }) => name));
    await space.expectNothingUnderWay();
  }, 60_000);

  test("loads every image of an OCI archive, compressed as it may be, and prepares the Nydus ones", async () => {
    const [space, other] = [new Space(), new Space()];
    const layout = join(dir, "two");
    await shell(`skopeo copy -q oci:${images}:oci oci:${layout}:docker.io/library/p:1`);
    await shell(`skopeo copy -q oci:${images}:nydus oci:${layout}:docker.io/library/n:1`);
    await shell(`tar czf ${dir}/two.tar.gz -C ${layout} .`);
    const loaded = await space.load({ path: `${dir}/two.tar.gz` });
    expect(loaded.map(({ name, prepared }) => [name, prepared?.isReady])).toEqual([
      ["docker.io/library/p:1", undefined],
      ["docker.io/library/n:1", true],
    ]);
    await shell(`gunzip -k ${dir}/two.tar.gz`);
    await other.ctr("images", "import", "--no-unpack", `${dir}/two.tar`);
    expect(await space.ctr("images", "ls", "-q")).toBe(await other.ctr("images", "ls", "-q"));
  }, 60_000);

  test("calls an image without a name by its digest, and refuses what is no archive of images", async () => {
    const space = new Space();
    await shell(`skopeo copy -q oci:${images}:oci oci:${dir}/nameless`);
    await shell(`tar cf ${dir}/nameless.tar -C ${dir}/nameless . && tar cf ${dir}/other.tar -C ${dir}/nameless blobs`);
    const [image] = await space.load({ path: `${dir}/nameless.tar` });
    expect(image?.name).toBe(`nydus@${image?.digest}`);
    expect((await failureOf(space.load({ path: `${dir}/other.tar` }))).code).toBe("ENOENT");
  }, 60_000);
});

describe.skipIf(!canRunContainerd || !hasDockerRegistry)("between containerd and a registry", () => {
  test("digests stay, and containerd learns where the blobs are", async () => {
    const space = new Space();
    await using registry = await startDockerRegistry();
    const pushed = await space.copy(`oci:${images}:nydus`, `docker://${registry.host}/app:1`);
    const again = await space.copy(`docker://${registry.host}/app:1`, `docker://${registry.host}/copy:2`);
    const pulled = await space.copy(`docker://${registry.host}/copy:2`, `containerd:${registry.host}/copy:2`);
    expect([again.digest, pulled.digest]).toEqual([pushed.digest, pushed.digest]);
    const labels = Object.values(await space.contentLabels());
    const source = `containerd.io/distribution.source.${registry.host}=copy`;
    expect(labels.filter((keys) => keys.includes(source))).toHaveLength(labels.length);
    expect(labels.length).toBe(6);
    await space.copy(`docker://${registry.host}/app:1`, `containerd:${registry.host}/app:1`);
    expect(await space.ctr("content", "ls")).toContain(`${registry.host}=app,copy`);
  }, 60_000);
});

describe.skipIf(!canRunContainerd)("the command line", () => {
  const nydus = (space: Space, ...args: string[]) =>
    run(
      process.execPath,
      MAIN,
      "--root",
      join(dir, "cli-root"),
      "-q",
      ...args,
      "-a",
      lab.address,
      "-n",
      space.namespace,
    );

  test("copies, prepares and loads by containerd's names", async () => {
    const space = new Space();
    const copied = await nydus(space, "copy", "--no-unpack", `oci:${images}:nydus`, "containerd:cli");
    expect(copied).toMatchObject({ status: 0, stderr: "" });
    expect(copied.stdout).toMatch(/^sha256:[0-9a-f]{64} {2}containerd:cli\n$/);
    expect(await space.snapshots("nydus")).toEqual([]);
    expect(await nydus(space, "prepare", "cli")).toMatchObject({ status: 0, stdout: "docker.io/library/cli:latest\n" });
    const untold = await nydus(space, "convert", "--snapshotter", "absent", `oci:${images}:oci`, "containerd:no");
    expect(untold).toMatchObject({ status: 3 });
    expect(untold.stderr).toContain("no snapshotter absent");
    expect(await nydus(space, "inspect", "containerd:cli")).toMatchObject({ status: 0 });
  }, 60_000);

  test("killed without a warning leaves a lease that ends by itself, and no image", async () => {
    const space = new Space();
    const draft = new OciDraft(join(dir, "killed"));
    const layer = draft.addLargeLayer(Array.from({ length: 400 }, (_, i) => new Uint8Array(1 << 20).fill(i)));
    const name = draft.name(draft.addImage([layer]), "x");
    const place = ["-a", lab.address, "-n", space.namespace];
    const child = Bun.spawn(
      [process.execPath, MAIN, "--root", join(dir, "k"), "copy", name, "containerd:x", ...place],
      {
        ...{ stdin: "ignore", stdout: "ignore", stderr: "ignore" },
      },
    );
    try {
      while ((await space.ctr("content", "active")).trim().split("\n").length < 2) {
        if (child.exitCode !== null) throw new NydusError("EFAULT", "the copy has ended before it was killed");
        await Bun.sleep(20);
      }
    } finally {
      child.kill("SIGKILL");
      await child.exited;
    }
    expect(await space.ctr("leases", "ls")).toMatch(/nydus-[0-9a-f]+ .* containerd\.io\/gc\.expire=20/);
    expect((await space.ctr("images", "ls", "-q")).trim()).toBe("");
  }, 60_000);
});
