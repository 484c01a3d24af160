import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Containerd } from "../../../../src/content/containerd/connection.ts";
import { openContainerdSource } from "../../../../src/content/containerd/containerd-source.ts";
import { openContainerdTarget } from "../../../../src/content/containerd/containerd-target.ts";
import { ContentSink } from "../../../../src/content/containerd/content-sink.ts";
import { openContainerdBlob } from "../../../../src/content/containerd/content-source.ts";
import { hasSnapshotter } from "../../../../src/content/containerd/snapshotters.ts";
import type { StoreContext } from "../../../../src/content/store/store.ts";
import { type ContainerdLab, canRunContainerd, startContainerd } from "../../../kit/containerd-lab.ts";
import { byteSourceSuite, failureOf } from "../../../suite/byte-source.ts";
import { describeBytes, imageStoreSuite, sampleImage, sha256, writeImage } from "../../../suite/image-store.ts";

let dir: string;
let lab: ContainerdLab;
let serial = 0;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "nydus-ctd-"));
  if (canRunContainerd) lab = await startContainerd();
}, 60_000);
afterAll(async () => {
  if (canRunContainerd) await lab[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
}, 60_000);

const newNamespace = (): string => `test-${serial++}`;
const contextOf = (namespace: string, signal?: AbortSignal): StoreContext => ({
  ...{ root: dir, containerd: { address: lab.address, namespace }, signal },
});
const fullName = (reference: string): string => `docker.io/library/suite:${reference}`;

/** What a namespace has besides images: nothing of it may stay when the collector has run. */
async function leftovers(namespace: string): Promise<Record<string, string>> {
  const ask = async (...args: string[]): Promise<string> => (await lab.ctrOk("-n", namespace, ...args)).trim();
  return {
    leases: await ask("leases", "ls", "-q"),
    ingests: (await ask("content", "active")).split("\n").slice(1).join("\n"),
    content: await ask("content", "ls", "-q"),
  };
}

/** Has the garbage collector run. */
async function collect(namespace: string): Promise<void> {
  await lab.ctrOk("-n", namespace, "leases", "create", "--id", "collect");
  await lab.ctrOk("-n", namespace, "leases", "rm", "--sync", "collect");
}

/** Of a blob that stays, though no image names it. */
const labels = (): Record<string, string> => ({ "containerd.io/gc.root": "test" });

/** Puts a blob that stays, though no image names it. */
async function putBlob(namespace: string, content: Uint8Array): Promise<void> {
  using containerd = new Containerd({ address: lab.address, namespace });
  await using sink = await ContentSink.open(containerd, { labels, onExisting: async () => undefined });
  await sink.write(content);
  await sink.commit(sha256(content), content.length);
}

test.skipIf(!canRunContainerd)("containerd can be run here", () => expect(lab.address).not.toBe(""));

if (canRunContainerd) {
  imageStoreSuite("containerd:", async () => {
    const namespace = newNamespace();
    return {
      source: async (reference) => openContainerdSource(fullName(reference), reference, contextOf(namespace)),
      target: async (reference) => openContainerdTarget(fullName(reference), reference, contextOf(namespace)),
      [Symbol.asyncDispose]: async () => {
        expect(await leftovers(namespace)).toMatchObject({ leases: "", ingests: "" });
      },
    };
  });
  byteSourceSuite("a blob of containerd's", async (content) => {
    const namespace = newNamespace();
    await putBlob(namespace, content);
    const place = { address: lab.address, namespace };
    const source = await openContainerdBlob({ ...place, digest: sha256(content), sizeBytes: content.length });
    return { source, bytes: content, [Symbol.asyncDispose]: () => source.close() };
  });
}

describe.skipIf(!canRunContainerd)("a target of containerd's", () => {
  test("is what ctr knows as a complete image, whose parts the collector keeps, until its name goes", async () => {
    const namespace = newNamespace();
    const image = sampleImage("kept");
    {
      await using target = openContainerdTarget(fullName("kept"), "kept", contextOf(namespace));
      await writeImage(target, image);
    }
    await collect(namespace);
    const checked = await lab.ctrOk("-n", namespace, "images", "check");
    expect(checked).toContain(fullName("kept"));
    expect(checked).toContain("complete (2/2)");
    expect((await leftovers(namespace))["content"]?.split("\n").sort()).toEqual(
      [image.root, image.config, image.layer].map(({ digest }) => String(digest)).sort(),
    );
    await lab.ctrOk("-n", namespace, "images", "rm", "--sync", fullName("kept"));
    expect(await leftovers(namespace)).toEqual({ leases: "", ingests: "", content: "" });
  });

  test("left before its name is given leaves no lease, no ingest and no blob", async () => {
    const namespace = newNamespace();
    const image = sampleImage("left");
    {
      await using target = openContainerdTarget(fullName("left"), "left", contextOf(namespace));
      await target.putBytes(image.config, image.configBytes);
      await using sink = await target.newBlob();
      await sink.write(image.layerBytes);
      expect((await leftovers(namespace))["leases"]).toStartWith("nydus-");
    }
    expect(await leftovers(namespace)).toEqual({ leases: "", ingests: "", content: "" });
  });

  test("aborted in the middle of a blob fails with the reason and leaves nothing", async () => {
    const namespace = newNamespace();
    const controller = new AbortController();
    const write = async (): Promise<void> => {
      await using target = openContainerdTarget(fullName("abort"), "abort", contextOf(namespace, controller.signal));
      await using sink = await target.newBlob();
      for (let i = 0; ; i++) {
        await sink.write(new Uint8Array(100_000));
        if (i === 10) controller.abort();
      }
    };
    expect((await failureOf(write())).code).toBe("ECANCELED");
    expect(await leftovers(namespace)).toEqual({ leases: "", ingests: "", content: "" });
  });

  test("keeps a blob that is there already and labels it as its own", async () => {
    const namespace = newNamespace();
    const image = sampleImage("there");
    for (const bytes of [image.layerBytes, image.configBytes, image.manifest]) await putBlob(namespace, bytes);
    const context = { ...contextOf(namespace), origin: { registry: "r.example", repository: "a/b" } };
    await using target = openContainerdTarget(fullName("there"), "there", context);
    await writeImage(target, image);
    await collect(namespace);
    const listed = await lab.ctrOk("-n", namespace, "content", "ls");
    expect(listed.match(/distribution\.source\.r\.example=a\/b/g)).toHaveLength(3);
    expect(listed).toContain(`containerd.io/gc.ref.content.l.0=${image.layer.digest}`);
    expect(await lab.ctrOk("-n", namespace, "images", "check")).toContain("complete (2/2)");
  });

  test("two writers of one blob, whatever a third has locked, both get it", async () => {
    const namespace = newNamespace();
    using containerd = new Containerd({ address: lab.address, namespace });
    const bytes = sampleImage("twice").layerBytes;
    const existing: string[] = [];
    const options = { labels, onExisting: async (digest: string) => void existing.push(digest) };
    await using first = await ContentSink.open(containerd, options);
    await using second = await ContentSink.open(containerd, options);
    for (const sink of [first, second]) await sink.write(bytes);
    await first.commit(sha256(bytes), bytes.length);
    await second.commit(sha256(bytes), bytes.length);
    expect(existing).toEqual([sha256(bytes)]);
    expect((await leftovers(namespace))["ingests"]).toBe("");
  });

  test("a blob given up leaves no ingest, also where no lease would take it along", async () => {
    const namespace = newNamespace();
    using containerd = new Containerd({ address: lab.address, namespace });
    {
      await using sink = await ContentSink.open(containerd, { onExisting: async () => undefined });
      await sink.write(new Uint8Array(100_000));
      expect((await leftovers(namespace))["ingests"]).toStartWith("nydus-");
    }
    expect((await leftovers(namespace))["ingests"]).toBe("");
  });

  test("refuses bytes of another digest", async () => {
    using containerd = new Containerd({ address: lab.address, namespace: newNamespace() });
    await using sink = await ContentSink.open(containerd, { onExisting: async () => undefined });
    await sink.write(new Uint8Array(10));
    const failure = await failureOf(sink.commit(sha256(new Uint8Array(9)), 10));
    expect(failure.code).toBe("EBADMSG");
  });

  test("takes a name from an image and leaves other labels of its record alone", async () => {
    const namespace = newNamespace();
    for (const label of ["old", "new"]) {
      await using target = openContainerdTarget(fullName("name"), "name", contextOf(namespace));
      await writeImage(target, sampleImage(label));
      if (label === "old") await lab.ctrOk("-n", namespace, "images", "label", fullName("name"), "mine=1");
    }
    const listed = await lab.ctrOk("-n", namespace, "images", "ls");
    expect(listed).toContain(sampleImage("new").root.digest);
    expect(listed).toContain("mine=1");
  });

  test("several blobs of many MiB at once go through whole", async () => {
    const namespace = newNamespace();
    const blobs = [1, 2, 3].map((n) => new Uint8Array(6_000_000 + n).fill(n));
    await Promise.all(blobs.map((blob) => putBlob(namespace, blob)));
    const place = { address: lab.address, namespace };
    for (const blob of blobs) {
      const source = await openContainerdBlob({ ...place, digest: sha256(blob), sizeBytes: blob.length });
      expect(sha256(await source.readAt({ start: 0, end: blob.length }))).toBe(sha256(blob));
      await source.close();
    }
  }, 60_000);
});

describe.skipIf(!canRunContainerd)("a source of containerd's", () => {
  test("finds an image by its exact name first, else by the name that it is short for", async () => {
    const namespace = newNamespace();
    for (const name of ["alpine", "docker.io/library/alpine:latest", "docker.io/library/debian:12"]) {
      await using target = openContainerdTarget(name, name, contextOf(namespace));
      await writeImage(target, sampleImage(name));
    }
    const rootOf = async (name: string): Promise<string> => {
      await using source = openContainerdSource(name, name, contextOf(namespace));
      return (await source.root()).descriptor.digest;
    };
    expect(await rootOf("alpine")).toBe(sampleImage("alpine").root.digest);
    expect(await rootOf("alpine:latest")).toBe(sampleImage("docker.io/library/alpine:latest").root.digest);
    expect(await rootOf("library/debian:12")).toBe(sampleImage("docker.io/library/debian:12").root.digest);
    for (const name of ["debian", "Not A Name", "../x"]) {
      expect((await failureOf(rootOf(name))).code).toBe("ENOENT");
    }
  });

  test("says which manifest was not pulled", async () => {
    await using source = openContainerdSource("x", "containerd:x", contextOf(newNamespace()));
    const missing = describeBytes(new Uint8Array(3), "application/vnd.oci.image.manifest.v1+json");
    const platform = { os: "linux", architecture: "arm64" };
    const failure = await failureOf(source.readBlob({ ...missing, platform }));
    expect(failure.code).toBe("ENOENT");
    expect(failure.message).toContain("linux/arm64");
  });

  test("knows the snapshotters that there are", async () => {
    using containerd = new Containerd({ address: lab.address, namespace: "default" });
    expect(await hasSnapshotter(containerd, "overlayfs")).toBe(true);
    expect(await hasSnapshotter(containerd, "nydus")).toBe(false);
    expect((await failureOf(hasSnapshotter(containerd, "x,id==y"))).code).toBe("EINVAL");
  });
});

describe("without a containerd", () => {
  const open = (address: string, namespace = "default") =>
    failureOf(openContainerdBlob({ address, namespace, digest: sha256(new Uint8Array(1)), sizeBytes: 1 }));

  test("a socket that is not there is named, with what to do", async () => {
    const address = join(dir, "none.sock");
    const failure = await open(address);
    expect(failure).toMatchObject({ code: "EIO", at: { path: address } });
    expect(failure.message).toContain("--address");
  });
  test("a socket that nobody listens on is named", async () => {
    const address = join(dir, "dead.sock");
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(address, resolve));
    // The file of a socket stays when its owner dies; here a plain file is what does not answer.
    await new Promise((resolve) => server.close(resolve));
    await Bun.write(address, "");
    chmodSync(address, 0o600);
    const failure = await open(address);
    expect(failure).toMatchObject({ code: "EIO", at: { path: address } });
    expect(failure.message).toContain("does not answer");
  });
  test("a namespace that is none is refused before anything is asked", async () => {
    for (const namespace of ["", "../x", "a b", "x".repeat(77), "a\n"]) {
      expect((await open(join(dir, "none.sock"), namespace)).code).toBe("EINVAL");
    }
  });
});
