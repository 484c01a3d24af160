import { describe, expect, test } from "bun:test";
import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import { microsNow } from "../../../../src/service/snapshotter/clock.ts";
import { diskUsage } from "../../../../src/service/snapshotter/disk-usage.ts";
import { KeyLock } from "../../../../src/service/snapshotter/key-lock.ts";
import { blobIdsOf, layerKind, splitChain } from "../../../../src/service/snapshotter/layer-kind.ts";
import { NO_USAGE, type Snapshot } from "../../../../src/service/snapshotter/snapshot.ts";
import { formatRecord, parseRecord } from "../../../../src/service/snapshotter/snapshot-record.ts";
import { Random } from "../../../kit/random.ts";

const labels = (...names: string[]): Map<string, string> =>
  new Map(names.map((name) => [`containerd.io/snapshot/${name}`, "true"]));

function snapshot(id: number, ...names: string[]): Snapshot {
  const times = { createdMicros: 1, updatedMicros: 2 };
  return { id, key: `k${id}`, parent: "", kind: "committed", labels: labels(...names), ...times, usage: NO_USAGE };
}

describe("layerKind()", () => {
  test("goes by the labels that are there", () => {
    expect(layerKind(labels())).toBe("plain");
    expect(layerKind(labels("nydus-blob"))).toBe("blob");
    expect(layerKind(labels("nydus-bootstrap", "nydus-blob"))).toBe("bootstrap");
    expect(layerKind(labels("nydus-ref"))).toBe("plain");
  });
});

describe("blobIdsOf()", () => {
  test("takes digests, and nothing that is none", () => {
    const hex = "0123456789abcdef".repeat(4);
    const of = (layer: string, ref: string) =>
      blobIdsOf(
        new Map([
          ["containerd.io/snapshot/cri.layer-digest", layer],
          ["containerd.io/snapshot/nydus-ref", ref],
        ]),
      );
    expect(of(`sha256:${hex}`, `sha256:${"a".repeat(64)}`)).toEqual([hex, "a".repeat(64)]);
    expect(of("sha256:../x", `sha256:${hex.toUpperCase()}`)).toEqual([]);
  });
});

describe("splitChain()", () => {
  test("takes what stands on the nearest bootstrap, and it", () => {
    const chain = [snapshot(5), snapshot(4), snapshot(3, "nydus-bootstrap"), snapshot(2, "nydus-blob"), snapshot(1)];
    const { layers, image, strayBlob } = splitChain(chain);
    expect([layers.map(({ id }) => id), image?.id, strayBlob]).toEqual([[5, 4], 3, undefined]);
    expect(splitChain(chain.slice(3))).toMatchObject({ image: undefined, strayBlob: { id: 2 } });
    expect(splitChain([snapshot(6, "nydus-blob"), ...chain])).toMatchObject({ image: { id: 3 }, strayBlob: { id: 6 } });
    expect(splitChain([])).toEqual({ layers: [], image: undefined, strayBlob: undefined });
  });
});

describe("KeyLock", () => {
  test("lets one at a time in for each key, in order, also past failures", async () => {
    const lock = new KeyLock<string>();
    const seen: string[] = [];
    const step = (key: string, name: string, ms: number, fails = false) =>
      lock.run(key, async () => {
        seen.push(`${name} begins`);
        await Bun.sleep(ms);
        seen.push(`${name} ends`);
        if (fails) throw new Error(name);
        return name;
      });
    const results = await Promise.allSettled([step("k", "1", 20, true), step("k", "2", 1), step("other", "3", 5)]);
    expect(results.map(({ status }) => status)).toEqual(["rejected", "fulfilled", "fulfilled"]);
    expect(seen.filter((line) => !line.startsWith("3"))).toEqual(["1 begins", "1 ends", "2 begins", "2 ends"]);
    expect(seen.indexOf("3 ends")).toBeLessThan(seen.indexOf("1 ends"));
    await lock.idle();
  });
});

describe("snapshot records", () => {
  test("survive", () => {
    const made: Snapshot = { ...snapshot(7, "x"), usage: { sizeBytes: 2 ** 50, inodes: 3 }, parent: "p", key: 'ä\n"' };
    expect(parseRecord(formatRecord(made), 7)).toEqual(made);
  });

  test("that are damaged throw nothing but EUCLEAN", () => {
    const text = formatRecord(snapshot(7, "x"));
    const random = new Random(11);
    for (let i = 0; i < 5_000; i++) expect(["EUCLEAN", "nothing"]).toContain(codeOfParsing(mutate(text, random)));
    for (const bad of ["", "null", "[]", "7", text.replace('"id":7', '"id":8'), text.replace('"k7"', '""')]) {
      expect(() => parseRecord(bad, 7)).toThrow(/^Cannot read snapshot record/);
    }
  });
});

describe("diskUsage()", () => {
  test("counts as du does: hard links once, holes not at all, symlinks as such", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-du-"));
    try {
      mkdirSync(join(dir, "a", "b"), { recursive: true });
      for (let i = 0; i < 60; i++) writeFileSync(join(dir, "a", `f${i}`), Buffer.alloc(i * 1_000));
      linkSync(join(dir, "a", "f50"), join(dir, "a", "b", "again"));
      linkSync(join(dir, "a", "f50"), join(dir, "third"));
      symlinkSync("/usr", join(dir, "link"));
      writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0x41])]), Buffer.alloc(9_000));
      await Bun.$`truncate -s 10M ${join(dir, "hole")}`;
      const { sizeBytes, inodes } = await diskUsage(dir);
      expect(sizeBytes).toBe(Number.parseInt(await Bun.$`du -s --block-size=1 ${dir}`.text(), 10));
      expect(inodes).toBe(Number.parseInt(await Bun.$`du -s --inodes ${dir}`.text(), 10));
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test("wants a directory that is there", async () => {
    const failure = await diskUsage("/nothing/here").catch((error: unknown) => error);
    expect((failure as { code?: unknown }).code).toBe("ENOENT");
  });
});

describe("microsNow()", () => {
  test("lies between two looks at the system's clock", () => {
    for (let i = 0; i < 100; i++) {
      const before = Date.now();
      const now = microsNow();
      expect(now).toBeGreaterThanOrEqual(before * 1_000 - 2_000);
      expect(now).toBeLessThanOrEqual((Date.now() + 3) * 1_000);
    }
  });
});

function mutate(text: string, random: Random): string {
  const bytes = new TextEncoder().encode(text).slice(0, random.chance(0.2) ? random.below(text.length) : undefined);
  for (let change = 0; change < 3; change++) bytes[random.below(bytes.length)] = random.below(128);
  return new TextDecoder().decode(bytes);
}

function codeOfParsing(text: string): string {
  try {
    parseRecord(text, 7);
    return "nothing";
  } catch (error) {
    return error instanceof NydusError ? error.code : String(error);
  }
}
