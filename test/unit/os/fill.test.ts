import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHUNK_CHECK, type FillJob } from "../../../src/os/codec-pool.ts";
import { openCodecPool } from "../../../src/os/codec-threads.ts";

const CHUNK_BYTES = 5000;

/** A job of plain chunks, each its own unit, with a hole of a block behind every third one. */
function jobOf(deviceFd: number, first: number, count: number): FillJob & { readonly offsets: readonly number[] } {
  const data = Uint8Array.from({ length: count * CHUNK_BYTES }, (_, i) => (i * 7 + first) % 251);
  const offsets = Array.from({ length: count }, (_, i) => (first + i) * 8192 + Math.floor(i / 3) * 4096);
  const units = offsets.flatMap((_, i) => [i * CHUNK_BYTES, CHUNK_BYTES, 0, CHUNK_BYTES, 1]);
  const chunks = offsets.flatMap((offset) => [offset, 0, CHUNK_BYTES, CHUNK_CHECK.digest]);
  const digests = new Uint8Array(count * 32);
  for (let i = 0; i < count; i++) {
    digests.set(
      createHash("sha256")
        .update(data.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES))
        .digest(),
      i * 32,
    );
  }
  const rows = { units: new Float64Array(units), chunks: new Float64Array(chunks), digests };
  return { data, digester: "sha256", ...rows, deviceFd, offsets };
}

async function withDevice(work: (fd: number, path: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "nydus-fill-"));
  const path = join(dir, "device");
  const fd = openSync(path, "w+");
  try {
    await work(fd, path);
  } finally {
    closeSync(fd);
    rmSync(dir, { recursive: true, force: true });
  }
}

test("fill() writes each verified chunk to its place, zeros up to its block's end, and nothing else", async () => {
  await withDevice(async (fd, path) => {
    await using pool = openCodecPool({ threads: 1 });
    const job = jobOf(fd, 1, 9);
    const content = (job.data as Uint8Array).slice();
    job.digests[4 * 32] = (job.digests[4 * 32] ?? 0) ^ 1; // the fifth one is not what it should be
    const { offsets } = job;
    const results = await pool.fill(job, { rank: 2 });
    expect(results.map((failure) => failure?.code)).toEqual(offsets.map((_, i) => (i === 4 ? "EBADMSG" : undefined)));
    const wanted = Buffer.alloc((offsets.at(-1) ?? 0) + CHUNK_BYTES);
    for (const [i, offset] of offsets.entries()) {
      if (i !== 4) wanted.set(content.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES), offset);
    }
    expect(readFileSync(path).equals(wanted)).toBe(true);
  });
});

test("an urgent job overtakes those that wait, also one that becomes urgent meanwhile", async () => {
  await withDevice(async (fd) => {
    await using pool = openCodecPool({ threads: 1 });
    const order: string[] = [];
    const late = { rank: 2 };
    const fill = async (name: string, urgency: { rank: number }): Promise<void> => {
      await pool.fill(jobOf(fd, 0, 3), urgency);
      order.push(name);
    };
    const all = ["a", "b", "c"].map((name) => fill(name, { rank: 2 }));
    all.push(fill("late", late), fill("urgent", { rank: 0 }));
    late.rank = 0;
    await Promise.all(all);
    expect(order).toEqual(["a", "late", "urgent", "b", "c"]);
  });
});

test("jobs that nobody waits for leave a thread to the others, and take it once somebody waits", async () => {
  await withDevice(async (fd) => {
    await using pool = openCodecPool({ threads: 2 });
    const jobs = Array.from({ length: 4 }, () => jobOf(fd, 0, 3));
    const urgencies = [2, 2, 1, 2].map((rank) => ({ rank }));
    const fills = jobs.map((job, i) => pool.fill(job, urgencies[i] as { rank: number }));
    /** Which jobs a thread has, or has done: what they hold was handed over. */
    const begun = async (): Promise<boolean[]> => {
      for (let turn = 0; turn < 10; turn++) await Promise.resolve(); // no answer comes meanwhile
      return jobs.map(({ digests }) => digests.byteLength === 0);
    };
    expect(await begun()).toEqual([true, false, false, false]);
    (urgencies[3] as { rank: number }).rank = 0;
    pool.reconsider();
    expect(await begun()).toEqual([true, false, false, true]);
    await Promise.all(fills);
  });
});

test("while somebody waits for the job that runs, another one of those that nobody waits for runs beside it", async () => {
  await withDevice(async (fd) => {
    await using pool = openCodecPool({ threads: 2 });
    const [one, two] = [jobOf(fd, 0, 3), jobOf(fd, 0, 3)];
    const urgency = { rank: 2 };
    const fills = [pool.fill(one, urgency), pool.fill(two, { rank: 2 })];
    urgency.rank = 0;
    pool.reconsider();
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    expect([one.digests.byteLength, two.digests.byteLength]).toEqual([0, 0]);
    await Promise.all(fills);
  });
});

test("a device that takes no writes is an error of every chunk", async () => {
  await withDevice(async (_fd, path) => {
    await using pool = openCodecPool({ threads: 1 });
    const fd = openSync(path, "r");
    const results = await pool.fill(jobOf(fd, 0, 3), { rank: 0 });
    closeSync(fd);
    expect(results.map((failure) => failure?.code)).toEqual(["EIO", "EIO", "EIO"]);
  });
});

test("small units, digested together, and large ones between them are each judged by themselves", async () => {
  await withDevice(async (fd, path) => {
    await using pool = openCodecPool({ threads: 1 });
    const sizes = Array.from({ length: 60 }, (_, i) => (i % 7 === 6 ? 150_000 : 1 + ((i * 7919) % 60_000)));
    const wrong = new Set([0, 6, 11, 33, 59]);
    const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, size) => sum + size, 0));
    const data = Uint8Array.from({ length: sizes.reduce((sum, size) => sum + size, 0) }, (_, i) => (i * 31) % 253);
    const content = sizes.map((size, i) => data.slice(starts[i], (starts[i] as number) + size));
    const units = sizes.flatMap((size, i) => [starts[i] as number, size, 0, size, 1]);
    const chunks = sizes.flatMap((size, i) => [i * 155_648, 0, size, CHUNK_CHECK.digest]);
    const digests = new Uint8Array(sizes.length * 32);
    for (const [i, bytes] of content.entries()) {
      digests.set(createHash("sha256").update(bytes).digest(), i * 32);
      if (wrong.has(i)) digests[i * 32 + 31] = (digests[i * 32 + 31] ?? 0) ^ 1;
    }
    const rows = { units: new Float64Array(units), chunks: new Float64Array(chunks), digests };
    const results = await pool.fill({ data, digester: "sha256", ...rows, deviceFd: fd }, { rank: 2 });
    expect(results.map((failure) => failure?.code)).toEqual(
      sizes.map((_, i) => (wrong.has(i) ? "EBADMSG" : undefined)),
    );
    const device = readFileSync(path);
    for (const [i, bytes] of content.entries()) {
      const found = device.subarray(i * 155_648, i * 155_648 + bytes.length);
      expect(found.equals(wrong.has(i) ? Buffer.alloc(found.length) : Buffer.from(bytes))).toBe(true);
    }
  });
});
