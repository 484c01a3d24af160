import { expect, test } from "bun:test";
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { InHeader } from "../../../../../src/format/fuse/abi.ts";
import { FuseJournal, JournalPart, readJournal } from "../../../../../src/operation/mount/fuse/journal.ts";
import { hasLibc } from "../../../../../src/os/syscall.ts";

/** Has the kernel write a request into a buffer, as read(2) of /dev/fuse does. */
function readRequest(target: Uint8Array, unique: bigint): void {
  const bytes = new Uint8Array(InHeader.sizeBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(InHeader.at.len, bytes.length, true);
  view.setBigUint64(InHeader.at.unique, unique, true);
  const path = `/tmp/nydus-journal-${process.pid}`;
  const fd = openSync(path, "w+");
  try {
    writeSync(fd, bytes);
    readSync(fd, target, 0, bytes.length, 0);
  } finally {
    closeSync(fd);
  }
}

test.skipIf(!hasLibc())("the journal knows what was read and not answered, and nothing else", () => {
  using journal = new FuseJournal(2);
  const { entry, fd } = journal;
  const parts = [new JournalPart(journal.shared, 0), new JournalPart(journal.shared, 1)] as const;
  const left = (): bigint[] | undefined => readJournal({ entry, fd })?.sort();
  expect(left()).toEqual([]);

  readRequest(parts[0].request, 2n);
  expect(left()).toEqual([2n]); // it has been read, and no line of this program has run since
  parts[0].finish();
  expect(left()).toEqual([]);

  readRequest(parts[1].request, 4n);
  expect(parts[1].add(4n)).toBe(true);
  parts[1].finish();
  readRequest(parts[1].request, 6n);
  expect(parts[1].add(6n)).toBe(true);
  parts[1].finish();
  readRequest(parts[0].request, (1n << 63n) | 8n);
  expect(left()).toEqual([4n, 6n, (1n << 63n) | 8n]);

  journal.remove(4n);
  parts[0].finish();
  expect(left()).toEqual([6n]);
  journal.remove(6n);
  expect(left()).toEqual([]);
});

test.skipIf(!hasLibc())("the journal refuses what it has no room for", () => {
  using journal = new FuseJournal(1);
  const part = new JournalPart(journal.shared, 0);
  let count = 0n;
  while (part.add(count + 1n)) count++;
  expect(count).toBe(2048n);
  journal.remove(7n);
  expect(part.add(5000n)).toBe(true);
});

test.skipIf(!hasLibc())("readJournal() does not guess at what another version means", () => {
  using journal = new FuseJournal(1);
  const { entry, fd } = journal;
  expect(readJournal({ entry: { ...entry, version: 2 }, fd })).toBeUndefined();
  expect(readJournal({ entry: { ...entry, data: { threads: 3 } }, fd })).toBeUndefined();
  expect(readJournal({ entry, fd: undefined })).toBeUndefined();
});
