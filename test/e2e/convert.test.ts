import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { smallGolden } from "../kit/golden.ts";
import { goldenLayers } from "../kit/golden-layers.ts";
import { tarBytes } from "../kit/layer-stack.ts";
import { OciDraft, type PlainDescriptor, readImage } from "../kit/oci-image.ts";
import { isBuilt, nydus, nydusOk, PROGRAM } from "../kit/program.ts";
import { Random } from "../kit/random.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, treeOf } from "../kit/tree.ts";

const isRoot = process.getuid?.() === 0;
const SEED = 20261124;

let dir: string;
let draft: OciDraft;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-convert-"));
  draft = new OciDraft(join(dir, "source"));
});
afterEach(async () => {
  for (const mount of ["mnt", "full"]) await run("umount", "-l", join(dir, mount));
  rmSync(dir, { recursive: true, force: true });
});

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

function file(path: string, content: Uint8Array) {
  return { path: text(path), type: "file", mode: 0o644, sizeBytes: content.length, content: [content] } as const;
}

function convert(source: string, target: string, ...flags: string[]) {
  return nydus("--root", join(dir, "state"), "convert", "--quiet", ...flags, source, target);
}

async function convertOk(source: string, target: string, ...flags: string[]): Promise<string> {
  const { stdout, stderr, status } = await convert(source, target, ...flags);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout.split(" ", 1)[0] as string;
}

/** Files below a directory, the state's own log and lock files aside. */
function filesBelow(path: string): string[] {
  return existsSync(path)
    ? readdirSync(path, { recursive: true, withFileTypes: true })
        .filter((one) => one.isFile())
        .map((one) => one.name)
    : [];
}

describe.skipIf(!isBuilt)("nydus convert", () => {
  test("gives the same digests whatever the directory, umask, time zone, locale and number of cores", async () => {
    const source = `oci:${join(smallGolden(), "images")}:oci`;
    const settings = [
      ["bash", "-c", 'umask 022; TZ=UTC LC_ALL=C exec "$@"', "-"],
      ["bash", "-c", 'umask 077; cd /; TZ=Asia/Tokyo LC_ALL=tr_TR.UTF-8 TMPDIR=/var/tmp exec "$@"', "-"],
      ["taskset", "-c", "0"],
      ["env", "-i"],
    ];
    const digests: string[] = [];
    for (const [i, setting] of settings.entries()) {
      const state = join(dir, `state${i}`);
      const target = `oci:${join(dir, `deep/er/${i}`)}:t`;
      const { stdout } = await run(...setting, PROGRAM, "--root", state, "convert", "--quiet", source, target);
      digests.push(stdout.split(" ", 1)[0] as string);
    }
    expect(new Set(digests).size).toBe(1);
    expect(digests[0]).toStartWith("sha256:");
  });

  test("makes the same blob of a layer whichever image it is in, and however the layer was compressed", async () => {
    const [bottom, middle] = goldenLayers(smallGolden(), "oci") as [Uint8Array, Uint8Array];
    const one = draft.name(draft.addImage([draft.addLayer(bottom)]), "one");
    const two = draft.name(
      draft.addImage([draft.addLayer(gzipSync(middle), "+gzip"), draft.addLayer(zstdCompressSync(bottom), "+zstd")]),
      "two",
    );
    await convertOk(one, `oci:${join(dir, "out")}:one`);
    await convertOk(two, `oci:${join(dir, "out")}:two`);
    const [ours, theirs] = ["one", "two"].map((ref) => readImage(join(dir, "out"), ref).layers);
    expect(theirs?.[1]).toBe(ours?.[0] as string);
  });

  test("takes gzip of many members, and layers that end without the tar's end", async () => {
    const tar = await tarBytes([file("a", text("first")), file("b", text("second"))]);
    const members = Buffer.concat([gzipSync(tar.subarray(0, 700)), gzipSync(tar.subarray(700, 2048))]);
    const source = draft.name(draft.addImage([draft.addLayer(members, "+gzip")]), "many");
    await convertOk(source, `oci:${join(dir, "out")}:many`);
    expect(await nydusOk("cat", `oci:${join(dir, "out")}:many`, "/a")).toBe("first");
  });

  test.skipIf(!isRoot)("shows the extras layer as the kernel shows what umoci unpacks of it", async () => {
    const golden = smallGolden();
    const layers = [...goldenLayers(golden, "oci"), new Uint8Array(readFileSync(join(golden, "extras.tar")))];
    const source = draft.name(draft.addImage(layers.map((layer) => draft.addLayer(layer))), "extras");
    const target = `oci:${join(dir, "out")}:extras`;
    await convertOk(source, target);
    // umoci takes the extras alone: it checks diff ids, which are right for layers that are not compressed
    const alone = draft.name(draft.addImage([draft.addLayer(layers[3] as Uint8Array)]), "alone");
    await shell(`umoci raw unpack --image ${alone.slice("oci:".length)} ${join(dir, "umoci")}`);
    await nydusOk("--root", join(dir, "state"), "unpack", target, join(dir, "ours"));
    const [want, got] = [await treeOf(join(dir, "umoci")), await treeOf(join(dir, "ours"))];
    const extras = want.filter((entry) => /^\/(e|implicit)(\/|$)/.test(entry.path));
    const isExtra = (entry: { path: string }): boolean => extras.some((one) => one.path === entry.path);
    // the parents that no entry describes have the time of their making
    const isImplicit = (field: string, entry: { path: string }): boolean =>
      field === "mtime" && /^\/implicit(\/parents)?$/.test(entry.path);
    expect(diffTrees(extras, got.filter(isExtra), { ignore: isImplicit })).toEqual([]);
    expect(extras.length).toBeGreaterThan(8);
  });

  test("names the platforms there are when the wanted one is missing", async () => {
    const layer = draft.addLayer(await tarBytes([file("a", text("x"))]));
    const images = ["arm64", "s390x"].map((architecture) => {
      const platform = { os: "linux", architecture };
      return { ...draft.addImage([layer], platform), platform };
    });
    const source = draft.name(draft.addIndex(images), "index");
    const { status, stderr } = await convert(source, `oci:${join(dir, "out")}:x`, "--platform", "linux/riscv64");
    expect(status).toBe(3);
    expect(stderr).toContain("linux/riscv64");
    expect(stderr).toContain("linux/arm64, linux/s390x");
    await convertOk(source, `oci:${join(dir, "out")}:x`, "--platform", "linux/s390x");
  });

  test("converts every platform and passes attestations through", async () => {
    const images = await Promise.all(
      ["amd64", "arm64"].map(async (architecture) => {
        const platform = { os: "linux", architecture };
        const layer = draft.addLayer(await tarBytes([file("arch", text(architecture))]));
        return { ...draft.addImage([layer], platform), platform };
      }),
    );
    const attestation = {
      ...draft.addImage([draft.addBlob("application/vnd.in-toto+json", "{}")], {
        os: "unknown",
        architecture: "unknown",
      }),
      platform: { os: "unknown", architecture: "unknown" },
      annotations: {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": images[0]?.digest,
      },
    };
    const source = draft.name(draft.addIndex([...images, attestation]), "index");
    const target = `oci:${join(dir, "out")}:index`;
    const digest = await convertOk(source, target, "--all-platforms");
    const index = JSON.parse(readFileSync(join(dir, "out", "blobs", ...digest.split(":")), "utf8"));
    expect(index.manifests.map((one: PlainDescriptor) => one["platform"])).toEqual(
      [...images, attestation].map((one) => one.platform),
    );
    expect(index.manifests[2]).toEqual(attestation);
    expect(existsSync(join(dir, "out", "blobs", ...attestation.digest.split(":")))).toBe(true);
    for (const architecture of ["amd64", "arm64"]) {
      expect(await nydusOk("cat", "--platform", `linux/${architecture}`, target, "/arch")).toBe(architecture);
    }
  });

  test("refuses what is a Nydus image already", async () => {
    const { status, stderr } = await convert(`oci:${join(smallGolden(), "images")}:nydus`, `oci:${join(dir, "out")}:x`);
    expect(status).toBe(6);
    expect(stderr).toContain("is a Nydus image already");
  });
});

describe.skipIf(!isBuilt)("nydus convert of a damaged source", () => {
  const random = new Random(SEED);
  let tar: Uint8Array;
  beforeAll(async () => {
    const noise = Uint8Array.from({ length: 70_000 }, () => random.below(256));
    tar = await tarBytes([file("a", text("hello ".repeat(5000))), file("noise", noise), file("z", text("end"))]);
  });

  /** Converts and expects failure: the exit status, one line that names the layer, and nothing in the target. */
  async function expectRefused(layer: PlainDescriptor, ...statuses: number[]): Promise<string> {
    const source = draft.name(draft.addImage([draft.addLayer(tar), layer]), `damaged${layer.digest.slice(-4)}`);
    const out = join(dir, "out");
    rmSync(out, { recursive: true, force: true });
    const { status, stderr, stdout } = await convert(source, `oci:${out}:x`);
    expect({ stdout, status: statuses.includes(status) ? "one of them" : status, stderr }).toEqual({
      stdout: "",
      status: "one of them",
      stderr,
    });
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(stderr).toContain(layer.digest);
    expect(filesBelow(out).filter((name) => name === "index.json")).toEqual([]);
    expect(filesBelow(join(dir, "state", "tmp"))).toEqual([]);
    return stderr;
  }

  test("names the layer whose digest is wrong, and leaves no image", async () => {
    const layer = draft.addLayer(gzipSync(tar), "+gzip");
    const path = draft.blobPath(layer.digest);
    const bytes = readFileSync(path);
    bytes[4] = (bytes[4] as number) ^ 1; // the gzip time: only the digest sees it
    writeFileSync(path, bytes);
    expect(await expectRefused(layer, 5)).toContain("digest");
  });

  test.each([
    ["", (bytes: Uint8Array) => bytes],
    ["+gzip", (bytes: Uint8Array) => new Uint8Array(gzipSync(bytes))],
    ["+zstd", (bytes: Uint8Array) => new Uint8Array(zstdCompressSync(bytes))],
  ] as const)("refuses truncated and mutated layers of type tar%s", async (compression, compress) => {
    const whole = compress(tar);
    for (let round = 0; round < 6; round++) {
      const cut = whole.slice(0, random.between(1, whole.length - 1600));
      await expectRefused(draft.addLayer(cut, compression), 4, 5);
      const mutated = whole.slice();
      const header = random.below(compression === "" ? 500 : 12); // where a flip is sure to be seen
      mutated[header] = (mutated[header] as number) ^ (1 << random.below(8));
      const result = await convert(
        draft.name(draft.addImage([draft.addLayer(mutated, compression)]), "m"),
        `oci:${join(dir, "out")}:m`,
      );
      expect([0, 4, 5, 6]).toContain(result.status); // a flip in a name or a time is another legal layer
    }
  });

  test("refuses a layer blob that is cut short in its store", async () => {
    const layer = draft.addLayer(gzipSync(tar), "+gzip");
    truncateSync(draft.blobPath(layer.digest), 1000);
    await expectRefused(layer, 4, 5);
  });

  test.skipIf(!isRoot)("ends with 'no space' on a full disk and leaves the target as it was", async () => {
    mkdirSync(join(dir, "full"));
    await shell(`mount -t tmpfs -o size=256k tmpfs ${join(dir, "full")}`);
    const noise = Uint8Array.from({ length: 600_000 }, () => random.below(256));
    const source = draft.name(draft.addImage([draft.addLayer(await tarBytes([file("noise", noise)]))]), "big");
    const target = join(dir, "full", "out");
    const { status, stderr } = await convert(source, `oci:${target}:x`);
    expect(status).toBe(10);
    expect(stderr).toContain("ENOSPC");
    expect(filesBelow(target).filter((name) => name !== "oci-layout")).toEqual([]);
  });
});

describe.skipIf(!isBuilt)("nydus convert of a large layer", () => {
  test("of one 3 GiB file stays below 400 MiB resident", async () => {
    const size = 3 * 2 ** 30;
    const header = (await tarBytes([{ path: text("big"), type: "file", mode: 0o644, sizeBytes: 0 }])).slice(0, 512);
    const layer = draft.addLargeLayer(largeTar(header, size));
    const source = draft.name(draft.addImage([layer]), "large");
    const command = [
      PROGRAM,
      "--root",
      join(dir, "state"),
      "convert",
      "--quiet",
      "--compressor",
      "lz4_block",
      source,
      `oci:${join(dir, "out")}:large`,
    ];
    const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
    const resident = (await peakOf(child)) / 2 ** 20;
    expect(await child.exited).toBe(0);
    console.log(`  3 GiB file: ${resident.toFixed(0)} MiB resident at most`);
    expect(resident).toBeLessThan(400);
  });
});

/** Most bytes resident of a program until it ends. Its rusage would begin with what this process had at the fork. */
async function peakOf(child: Bun.Subprocess): Promise<number> {
  let peak = 0;
  while (child.exitCode === null && child.signalCode === null) {
    const line = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"));
    peak = Math.max(peak, Number(line?.[1] ?? 0) * 1024);
    await Bun.sleep(20);
  }
  expect(peak).toBeGreaterThan(0);
  return peak;
}

/** A tar of one file of `size` bytes: every MiB differs, and compresses well. */
function* largeTar(header: Uint8Array, size: number): Generator<Uint8Array> {
  const field = text(`${size.toString(8).padStart(11, "0")}\0`);
  header.set(field, 124);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.set(text(`${sum.toString(8).padStart(6, "0")}\0 `), 148);
  yield header;
  const piece = new Uint8Array(2 ** 20);
  const view = new DataView(piece.buffer);
  for (let at = 0; at < size; at += piece.length) {
    for (let i = 0; i < piece.length; i += 512) view.setUint32(i, at + i);
    yield piece;
  }
  yield new Uint8Array(1024);
}
