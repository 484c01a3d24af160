import { describe, expect, test } from "bun:test";
import {
  EventInfoRange,
  EventMetadata,
  FAN_PRE_ACCESS,
  RANGE_EVENT_BYTES,
} from "../../../../../src/format/fanotify/event.ts";
import { ErofsJournal, JournalView, openJournal } from "../../../../../src/operation/mount/erofs/journal.ts";
import { duplicate } from "../../../../../src/os/quiet-file.ts";
import { hasLibc } from "../../../../../src/os/syscall.ts";

const FILE = { dev: 64_769, ino: 2 ** 40 + 3 };
const RANGE = { start: 2 ** 41, end: 2 ** 41 + 4096 };

/** As the kernel writes an event. */
function writeEvent(batch: Uint8Array, index: number, fd: number, range: { start: number; end: number }): void {
  const at = index * RANGE_EVENT_BYTES;
  const reserved = new Uint8Array(4);
  const event = { eventLen: RANGE_EVENT_BYTES, vers: 3, reserved: 0, metadataLen: EventMetadata.sizeBytes, pid: 7, fd };
  EventMetadata.write(batch, at, { ...event, mask: BigInt(FAN_PRE_ACCESS) });
  const [offset, count] = [BigInt(range.start), BigInt(range.end - range.start)];
  EventInfoRange.write(batch, at + EventMetadata.sizeBytes, { infoType: 6, pad: 0, len: 24, reserved, offset, count });
}

describe.skipIf(!hasLibc())("a journal of events", () => {
  test("has for another process what was not answered: what waits, and what was only read", () => {
    using journal = new ErofsJournal(8);
    const mine = new JournalView(journal.shared);
    mine.add(3, 40, FILE, RANGE);
    mine.add(7, 41, FILE, RANGE);
    mine.clear(7);
    writeEvent(mine.batch, 0, 50, { start: 0, end: 4096 });
    writeEvent(mine.batch, 1, 51, RANGE);
    mine.noteFd(51);
    mine.noteFd(50);
    const other = openJournal({ entry: journal.entry, fd: duplicate(journal.fd) });
    expect(other?.left()).toEqual([
      { fd: 40, file: FILE, range: RANGE },
      { fd: 50, file: undefined, range: { start: 0, end: 4096 } },
      { fd: 51, file: undefined, range: RANGE },
    ]);
    expect(other?.highestFd).toBe(51);
    other?.forget(40);
    mine.clearBatch();
    expect([mine.left(), other?.left()]).toEqual([[], []]);
  });

  test("reads no further than the last event that was read whole, and survives noise", () => {
    using journal = new ErofsJournal(1);
    const mine = new JournalView(journal.shared);
    writeEvent(mine.batch, 0, 60, RANGE);
    new DataView(mine.batch.buffer, mine.batch.byteOffset).setUint32(RANGE_EVENT_BYTES, 2 ** 31, true);
    expect(mine.left().map(({ fd }) => fd)).toEqual([60]);
  });

  test("of another version, or of another size than it says, is not read", () => {
    using journal = new ErofsJournal(4);
    const { entry } = journal;
    const open = (changed: object): unknown =>
      openJournal({ entry: { ...entry, ...changed }, fd: duplicate(journal.fd) });
    expect([open({ version: 2 }), open({ data: { slots: 5 } }), open({ data: null })]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(open({})).toBeInstanceOf(JournalView);
  });
});
