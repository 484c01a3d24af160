import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ByteRange } from "../../../../src/base/bytes.ts";
import { type Digest, hexOf } from "../../../../src/base/digest.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import { findRecord, listRecords } from "../../../../src/content/local/image-records.ts";
import { Lease } from "../../../../src/content/local/lease.ts";
import { openLocalTarget } from "../../../../src/content/local/local-target.ts";
import { openImageSource } from "../../../../src/content/local/open-image-source.ts";
import { storePaths } from "../../../../src/content/local/paths.ts";
import { sweepStore } from "../../../../src/content/local/sweep.ts";
import type { StreamingSource } from "../../../../src/content/store/source.ts";
import type { ImageSource } from "../../../../src/content/store/store.ts";
import type { Codecs } from "../../../../src/format/codec/codecs.ts";
import { copyBlob } from "../../../../src/operation/image/copy-blob.ts";
import { pullImage } from "../../../../src/operation/image/pull.ts";
import { pruneStore, removeImage } from "../../../../src/operation/image/remove.ts";
import { listStoredImages } from "../../../../src/operation/image/stored-images.ts";
import { loadCodecs } from "../../../../src/os/codecs.ts";
import { OciDraft } from "../../../kit/oci-image.ts";
import { Random } from "../../../kit/random.ts";
import { failureOf } from "../../../suite/byte-source.ts";
import {
  describeBytes,
  imageStoreSuite,
  type SampleImage,
  sampleImage,
  writeImage,
} from "../../../suite/image-store.ts";

let codecs: Codecs;
let base = "";
let serial = 0;
const signal = new AbortController().signal;

beforeAll(async () => {
  codecs = await loadCodecs();
  base = mkdtempSync(join(tmpdir(), "nydus-store-"));
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

function newRoot(): string {
  return join(base, `root-${serial++}`);
}

function nameOf(reference: string): string {
  return `registry.example/suite:${reference}`;
}

function openTarget(root: string, reference: string): ReturnType<typeof openLocalTarget> {
  return openLocalTarget({ root, name: nameOf(reference), from: `docker://${nameOf(reference)}` });
}

async function put(root: string, reference: string, image: SampleImage): Promise<void> {
  await using target = await openTarget(root, reference);
  await writeImage(target, image);
}

function namesBelow(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir).sort() : [];
}

function storedBlobs(root: string): string[] {
  return namesBelow(storePaths(root).blobs);
}

imageStoreSuite("the image store", async () => {
  const root = newRoot();
  return {
    source: (reference) => openImageSource(nameOf(reference), { root }, "never"),
    target: (reference) => openTarget(root, reference),
    [Symbol.asyncDispose]: async () => {
      expect(namesBelow(storePaths(root).ingest)).toEqual([]);
      expect(namesBelow(storePaths(root).leases)).toEqual([]);
    },
  };
});

/** A blob whose transfer breaks, and that counts what it gives. */
class BreakingBlob implements StreamingSource {
  readonly sizeBytes: number;
  readonly bytes: Uint8Array;
  given = 0;
  starts: number[] = [];
  /** Where transfers break. */
  breakAt = Number.POSITIVE_INFINITY;
  /** Called before each piece. */
  before: () => Promise<void> = async () => undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.sizeBytes = bytes.length;
  }

  async readAt({ start, end }: ByteRange): Promise<Uint8Array> {
    return this.bytes.slice(start, end);
  }

  async *stream(_?: AbortSignal, start = 0): AsyncGenerator<Uint8Array> {
    this.starts.push(start);
    for (let at = start; at < this.sizeBytes; ) {
      await this.before();
      if (at >= this.breakAt) throw new NydusError("EIO", "Cannot read blob: broken on purpose");
      const end = Math.min(at + 65_537, this.sizeBytes, this.breakAt);
      this.given += end - at;
      yield this.bytes.slice(at, end);
      at = end;
    }
  }

  close = (): Promise<void> => Promise.resolve();
}

/** Copies one blob into the store, as a process of its own would. */
async function transfer(root: string, blob: BreakingBlob, whole: Uint8Array): Promise<{ fetchedBytes: number }> {
  const source = { name: "breaking", openBlob: async () => blob } as unknown as ImageSource;
  await using target = await openTarget(root, "transfer");
  return await copyBlob({ source, target, codecs, signal }, describeBytes(whole, "x"));
}

const LARGE = new Random(7).bytes(3_000_000);
const LARGE_HEX = createHash("sha256").update(LARGE).digest("hex");

function partOf(root: string): string {
  return join(storePaths(root).ingest, `${LARGE_HEX}.part`);
}

function expectWhole(root: string): void {
  expect(Buffer.from(LARGE).equals(readFileSync(join(storePaths(root).blobs, LARGE_HEX)))).toBe(true);
  expect(namesBelow(storePaths(root).ingest)).toEqual([]);
}

describe("A transfer into the store", () => {
  test("goes on where it broke: cut at 60 %, the second one fetches 40 %", async () => {
    const root = newRoot();
    const blob = new BreakingBlob(LARGE);
    blob.breakAt = 1_800_000;
    expect((await failureOf(transfer(root, blob, LARGE))).code).toBe("EIO");
    expect(storedBlobs(root)).toEqual([]);
    expect(statSync(partOf(root)).size).toBe(1_800_000);
    [blob.breakAt, blob.given] = [Number.POSITIVE_INFINITY, 0];
    expect((await transfer(root, blob, LARGE)).fetchedBytes).toBe(1_200_000);
    expect([blob.given, blob.starts]).toEqual([1_200_000, [0, 1_800_000]]);
    expectWhole(root);
    expect((await transfer(root, blob, LARGE)).fetchedBytes).toBe(0);
  });
  test.each([
    [
      "has another byte",
      (part: Buffer) => Buffer.concat([part.subarray(0, 99), Buffer.of(1 ^ (part[99] ?? 0)), part.subarray(100)]),
    ],
    [
      "ends in zeros, as after a power cut",
      (part: Buffer) => Buffer.concat([part.subarray(0, 4096), Buffer.alloc(100_000)]),
    ],
    ["has all bytes, one of them wrong", () => Buffer.from(LARGE.map((byte, i) => (i === 5 ? byte ^ 1 : byte)))],
    ["is longer than the blob", () => Buffer.concat([LARGE, Buffer.alloc(1)])],
  ])("fetches all of a blob whose part %s", async (_, damage) => {
    const root = newRoot();
    const blob = new BreakingBlob(LARGE);
    blob.breakAt = 500_000;
    await failureOf(transfer(root, blob, LARGE));
    writeFileSync(partOf(root), damage(readFileSync(partOf(root))));
    blob.breakAt = Number.POSITIVE_INFINITY;
    await transfer(root, blob, LARGE);
    expect(blob.starts.at(-1)).toBe(0);
    expectWhole(root);
  });
  test("finishes a part that holds all bytes without fetching any", async () => {
    const root = newRoot();
    mkdirSync(storePaths(root).ingest, { recursive: true });
    writeFileSync(partOf(root), LARGE);
    expect((await transfer(root, new BreakingBlob(LARGE), LARGE)).fetchedBytes).toBe(0);
    expectWhole(root);
  });
  test.each([
    ["other bytes", () => new BreakingBlob(LARGE.map((byte) => byte ^ 1))],
    ["a byte too many", () => new BreakingBlob(new Uint8Array([...LARGE.subarray(0, 9), ...LARGE]))],
  ])("that brings %s ends with EBADMSG and leaves nothing", async (_, make) => {
    const root = newRoot();
    expect((await failureOf(transfer(root, make(), LARGE))).code).toBe("EBADMSG");
    expect([storedBlobs(root), namesBelow(storePaths(root).ingest)]).toEqual([[], []]);
  });
  test("that ends early is EIO, and may be gone on with", async () => {
    const root = newRoot();
    expect((await failureOf(transfer(root, new BreakingBlob(LARGE.subarray(0, 70_000)), LARGE))).code).toBe("EIO");
    expect(statSync(partOf(root)).size).toBe(70_000);
  });
  test("of the same blob by two at once fetches it once", async () => {
    const root = newRoot();
    const blob = new BreakingBlob(LARGE);
    blob.before = () => Bun.sleep(1);
    await Promise.all([transfer(root, blob, LARGE), transfer(root, blob, LARGE), transfer(root, blob, LARGE)]);
    expect(blob.given).toBe(LARGE.length);
    expectWhole(root);
  });
  test("takes over what another one leaves broken", async () => {
    const root = newRoot();
    const [first, second] = [new BreakingBlob(LARGE), new BreakingBlob(LARGE)];
    first.breakAt = 400_000;
    first.before = () => Bun.sleep(5);
    const failed = failureOf(transfer(root, first, LARGE));
    await Bun.sleep(10);
    await transfer(root, second, LARGE);
    expect((await failed).code).toBe("EIO");
    expect(second.starts).toEqual([400_000]);
    expectWhole(root);
  });
  test("is not swept while it runs, and is once it has broken", async () => {
    const root = newRoot();
    const blob = new BreakingBlob(LARGE);
    blob.breakAt = 300_000;
    blob.before = async () => {
      if (existsSync(partOf(root))) expect((await sweepStore(root)).map(({ kind }) => kind)).toEqual([]);
    };
    await failureOf(transfer(root, blob, LARGE));
    expect((await sweepStore(root)).map(({ kind }) => kind)).toEqual(["part"]);
    expect(existsSync(partOf(root))).toBe(false);
  });
});

describe("Names of the store", () => {
  test("are those of the registry in full, whichever way they are written", async () => {
    const root = newRoot();
    const image = sampleImage("names");
    await using target = await openLocalTarget({
      root,
      name: "docker.io/library/alpine:latest",
      from: "docker://alpine",
    });
    await writeImage(target, image);
    const paths = storePaths(root);
    const { digest } = image.root;
    const hex = hexOf(digest);
    for (const name of ["alpine", "docker://alpine:latest", "index.docker.io/library/alpine", `alpine@${digest}`]) {
      expect((await findRecord(paths, name))?.name).toBe("docker.io/library/alpine:latest");
    }
    for (const id of [hex.slice(0, 12), hex, digest, digest.slice(0, 20)]) {
      expect((await findRecord(paths, id, true))?.name).toBe("docker.io/library/alpine:latest");
    }
    expect(await findRecord(paths, hex.slice(0, 12))).toBeUndefined();
    expect(await findRecord(paths, `busybox@${digest}`)).toBeUndefined();
    expect(await findRecord(paths, "alpine:3")).toBeUndefined();
  });
  test("a damaged record stops no listing, but every sweep, and is named", async () => {
    const root = newRoot();
    await put(root, "good", sampleImage("good"));
    const bad = join(storePaths(root).images, `${"0".repeat(64)}.json`);
    writeFileSync(bad, "{");
    expect((await listRecords(storePaths(root))).damaged).toEqual([bad]);
    const { images, damaged } = await listStoredImages(root);
    expect([images.map(({ name }) => name), damaged]).toEqual([[nameOf("good")], [bad]]);
    const failure = await failureOf(sweepStore(root));
    expect([failure.code, failure.at.path]).toEqual(["EUCLEAN", bad]);
  });
});

describe("Removing", () => {
  test("takes what only that image needs", async () => {
    const root = newRoot();
    const [one, two] = [sampleImage("one", LARGE), sampleImage("two", LARGE)];
    await put(root, "one", one);
    await put(root, "two", two);
    const stray = "5".repeat(64);
    writeFileSync(join(storePaths(root).blobs, stray), "what an interrupted pull has left");
    const { swept } = await removeImage(root, nameOf("one"), false);
    expect(swept.map(({ digest }) => digest).sort()).toEqual([one.root.digest, one.config.digest].sort());
    const kept = [two.root, two.config, two.layer].map(({ digest }) => hexOf(digest));
    expect(storedBlobs(root)).toEqual([...kept, stray].sort());
    expect((await failureOf(removeImage(root, nameOf("one"), false))).code).toBe("ENOENT");
    await removeImage(root, hexOf(two.root.digest).slice(0, 12), false);
    expect(storedBlobs(root)).toEqual([stray]);
    expect((await pruneStore(root, false)).swept.map(({ kind, digest }) => [kind, hexOf(digest)])).toEqual([
      ["blob", stray],
    ]);
  });
  test("leaves a stray blob that a pull has found and counts on", async () => {
    const root = newRoot();
    const image = sampleImage("found");
    await put(root, "before", image);
    rmSync(storePaths(root).images, { recursive: true });
    {
      await using target = await openTarget(root, "found");
      expect(await target.hasBlob(image.layer)).toBe(true);
      await pruneStore(root, false);
      expect(storedBlobs(root)).toEqual([hexOf(image.layer.digest)]);
    }
    await pruneStore(root, false);
    expect(storedBlobs(root)).toEqual([]);
  });
  test("one of two names leaves the image to the other", async () => {
    const root = newRoot();
    const image = sampleImage("twice");
    await put(root, "one", image);
    await put(root, "two", image);
    expect((await removeImage(root, nameOf("one"), false)).swept).toEqual([]);
    expect(storedBlobs(root)).toHaveLength(3);
  });
  test("leaves what a living process has a lease on, not what a dead one had", async () => {
    const root = newRoot();
    const image = sampleImage("leased");
    await put(root, "leased", image);
    const paths = storePaths(root);
    const dead = { pid: process.pid, pidStart: "1", digests: [image.config.digest] };
    {
      await using lease = new Lease(paths);
      await lease.add(image.layer.digest);
      writeFileSync(join(paths.leases, `1-${"0".repeat(16)}.json`), JSON.stringify(dead));
      await removeImage(root, nameOf("leased"), false);
      expect(storedBlobs(root)).toEqual([hexOf(image.layer.digest)]);
      expect(namesBelow(paths.leases)).toHaveLength(1);
    }
    await pruneStore(root, false);
    expect(storedBlobs(root)).toEqual([]);
  });
  test("prune takes bootstraps and caches of images that are not in the store", async () => {
    const root = newRoot();
    const image = sampleImage("kept");
    await put(root, "kept", image);
    const [kept, gone] = [hexOf(image.layer.digest), randomBytes(32).toString("hex")];
    for (const hex of [kept, gone]) {
      mkdirSync(join(root, "bootstraps", hex), { recursive: true });
      writeFileSync(join(root, "bootstraps", hex, "image.boot"), "x");
      mkdirSync(join(root, "cache"), { recursive: true });
      for (const end of ["data", "map", "lock"]) writeFileSync(join(root, "cache", `${hex}.${end}`), "x");
    }
    const { swept } = await pruneStore(root, false);
    expect(swept.map(({ kind, digest }) => [kind, hexOf(digest)])).toEqual([
      ["bootstrap", gone],
      ["cache", gone],
    ]);
    expect(namesBelow(join(root, "bootstraps"))).toEqual([kept]);
    expect(namesBelow(join(root, "cache"))).toEqual(
      [`${gone}.lock`, `${kept}.data`, `${kept}.lock`, `${kept}.map`].sort(),
    );
    await pruneStore(root, true);
    expect([storedBlobs(root), namesBelow(join(root, "bootstraps"))]).toEqual([[], []]);
  });
  test.each([1, 2, 3])("never takes what an image or a lease needs, and all else: model, seed %d", async (seed) => {
    const model = new StoreModel(newRoot(), new Random(seed));
    for (let step = 0; step < 60; step++) {
      await model.step();
      expect(model.missing()).toEqual([]);
    }
    await model.end();
  });
});

/** Names, leases and prunes at random, and what must be in the store after each. */
class StoreModel {
  readonly #root: string;
  readonly #random: Random;
  readonly #images: readonly SampleImage[];
  readonly #named = new Map<string, SampleImage>();
  readonly #leases: { lease: Lease; image: SampleImage }[] = [];
  readonly #actions = [
    () => this.#put(),
    () => this.#put(),
    () => this.#remove(),
    () => this.#lease(),
    () => this.#prune(),
  ];

  constructor(root: string, random: Random) {
    this.#root = root;
    this.#random = random;
    const layers = Array.from({ length: 4 }, () => random.bytes(2000));
    this.#images = Array.from({ length: 6 }, (_, i) => sampleImage(`model-${i}`, layers[i % 4] as Uint8Array));
  }

  async step(): Promise<void> {
    await this.#random.pick(this.#actions)();
  }

  #needed(): string[] {
    const images = [...this.#named.values(), ...this.#leases.map(({ image }) => image)];
    const parts = images.flatMap((image) => [image.root, image.config, image.layer]);
    return [...new Set(parts.map(({ digest }) => hexOf(digest)))].sort();
  }

  missing(): string[] {
    const there = storedBlobs(this.#root);
    return this.#needed().filter((hex) => !there.includes(hex));
  }

  #reference(): string {
    return `r${this.#random.below(4)}`;
  }

  async #put(): Promise<void> {
    const [image, reference] = [this.#random.pick(this.#images), this.#reference()];
    await put(this.#root, reference, image);
    this.#named.set(reference, image);
  }

  async #remove(): Promise<void> {
    const reference = this.#reference();
    if (this.#named.delete(reference)) await removeImage(this.#root, nameOf(reference), false);
  }

  async #lease(): Promise<void> {
    const image = this.#named.get(this.#reference());
    if (image === undefined) return;
    const lease = new Lease(storePaths(this.#root));
    await lease.add(image.root.digest, image.config.digest, image.layer.digest);
    this.#leases.push({ lease, image });
  }

  async #prune(): Promise<void> {
    const ended = this.#leases.splice(this.#random.below(this.#leases.length + 1), 1);
    for (const { lease } of ended) await lease[Symbol.asyncDispose]();
    await pruneStore(this.#root, false);
    expect(storedBlobs(this.#root)).toEqual(this.#needed());
  }

  async end(): Promise<void> {
    for (const { lease } of this.#leases) await lease[Symbol.asyncDispose]();
  }
}

describe("Pulling from a directory", () => {
  const layer = new Random(9).bytes(50_000);

  function draft(): { dir: string; name: string } {
    const dir = join(base, `oci-${serial++}`);
    const oci = new OciDraft(dir);
    const amd = oci.addImage([oci.addLayer(layer)], { os: "linux", architecture: "amd64" });
    const arm = oci.addImage([oci.addLayer(layer.slice(1))], { os: "linux", architecture: "arm64" });
    const index = oci.addIndex([
      { ...amd, platform: { os: "linux", architecture: "amd64" } },
      { ...arm, platform: { os: "linux", architecture: "arm64" } },
    ]);
    return { dir, name: oci.name(index, "multi") };
  }

  const amd64 = { os: "linux", architecture: "amd64" };

  test("brings one platform, keeps the index, and the rest with the next pull", async () => {
    const root = newRoot();
    const { name, dir } = draft();
    const request = { image: name, root, signal, lazy: false, as: "app" };
    const first = await pullImage({ ...request, platforms: [amd64] });
    expect(first.name).toBe("docker.io/library/app:latest");
    expect((await listStoredImages(root)).images.map(({ platform, state }) => [platform, state])).toEqual([
      ["linux/amd64", "complete"],
    ]);
    const second = await pullImage({ ...request, platforms: "all" });
    expect([second.digest, second.fetchedBytes < first.fetchedBytes * 1.5]).toEqual([first.digest, true]);
    expect((await listStoredImages(root)).images.map(({ platform }) => platform)).toEqual([
      "linux/amd64",
      "linux/arm64",
    ]);
    rmSync(dir, { recursive: true });
    await using source = await openImageSource("app", { root });
    expect((await source.root()).descriptor.digest).toBe(first.digest);
  });
  test("is refused lazily where the image is no Nydus image, and leaves nothing", async () => {
    const root = newRoot();
    const failure = await failureOf(pullImage({ image: draft().name, root, signal, lazy: true, platforms: [amd64] }));
    expect(failure.code).toBe("ENOTSUP");
    expect([storedBlobs(root), (await listStoredImages(root)).images]).toEqual([[], []]);
  });
  test("what the store lacks of an image is read where it came from, but never with --pull never", async () => {
    const root = newRoot();
    const { name, dir } = draft();
    await pullImage({ image: name, as: "app", root, signal, lazy: false, platforms: [amd64] });
    const digest = describeBytes(layer.slice(1), "x");
    await using lazily = await openImageSource("app", { root });
    const blob = await lazily.openBlob(digest);
    expect((await blob.readAt({ start: 0, end: 9 })).length).toBe(9);
    await blob.close();
    await using never = await openImageSource("app", { root }, "never");
    expect((await failureOf(never.openBlob(digest))).code).toBe("ENOENT");
    expect((await failureOf(openImageSource("other", { root }, "never"))).code).toBe("ENOENT");
    rmSync(dir, { recursive: true });
    const stored: Digest = describeBytes(layer, "x").digest;
    const kept = await lazily.openBlob({ digest: stored, size: layer.length });
    await kept.close();
  });
});
