import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import {
  decodeEvents,
  EventInfoRange,
  EventMetadata,
  EventResponse,
  encodeResponse,
} from "../../../../src/format/fanotify/event.ts";
import { randomOf } from "../../../kit/fake-blob.ts";
import { run } from "../../../kit/shell.ts";

interface Shape {
  readonly fd?: number;
  readonly mask?: bigint;
  readonly offset?: bigint;
  readonly count?: bigint;
  readonly version?: number;
  readonly length?: number;
}

function eventOf({
  fd = 7,
  mask = 0x10_0000n,
  offset = 0n,
  count = 4096n,
  version = 3,
  length = 48,
}: Shape): Uint8Array {
  const bytes = new Uint8Array(48);
  const head = { eventLen: length, vers: version, reserved: 0, metadataLen: 24, mask, fd: fd >>> 0, pid: 99 };
  EventMetadata.write(bytes, 0, head);
  const range = { infoType: 6, pad: 0, len: 24, reserved: new Uint8Array(4), offset, count };
  EventInfoRange.write(bytes, 24, range);
  return bytes;
}

describe("decodeEvents()", () => {
  test("gives descriptor, process and range of each event of a read", () => {
    const bytes = Buffer.concat([eventOf({ fd: 7, offset: 8192n, count: 65536n }), eventOf({ fd: 8 })]);
    expect(decodeEvents(new Uint8Array(bytes))).toEqual([
      { kind: "access", fd: 7, pid: 99, range: { start: 8192, end: 73728 } },
      { kind: "access", fd: 8, pid: 99, range: { start: 0, end: 4096 } },
    ]);
  });

  test("gives no range where the event has none", () => {
    const bytes = eventOf({ length: 24 }).subarray(0, 24);
    expect(decodeEvents(bytes)).toEqual([{ kind: "access", fd: 7, pid: 99, range: undefined }]);
  });

  test.each([{ mask: 0x4000n }, { fd: -1 }])("says overflow for %p", (shape) => {
    expect(decodeEvents(eventOf(shape))).toEqual([{ kind: "overflow" }]);
  });

  test.each([{ version: 4 }, { length: 20 }, { length: 49 }])("refuses %p", (shape) => {
    expect(() => decodeEvents(eventOf(shape))).toThrow(NydusError);
  });

  test("throws nothing but NydusError for noise (seed 5)", () => {
    const random = randomOf(5);
    for (let i = 0; i < 20_000; i++) {
      const bytes = new Uint8Array(Buffer.concat([eventOf({}), eventOf({})])).subarray(0, random(97));
      for (let k = 0; k < 3 && bytes.length > 0; k++) bytes[random(bytes.length)] = random(256);
      try {
        decodeEvents(bytes);
      } catch (error) {
        if (!(error instanceof NydusError)) throw error;
      }
    }
  });
});

test.skipIf(!existsSync("/usr/include/linux/fanotify.h") || Bun.which("cc") === null)(
  "records and answers are those of the kernel's header",
  async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-fanotify-"));
    try {
      const rows = [
        ["fanotify_event_metadata", EventMetadata.sizeBytes],
        ["fanotify_response", EventResponse.sizeBytes],
      ] as const;
      const fields = [
        ["fanotify_event_metadata", "mask", EventMetadata.at.mask],
        ["fanotify_event_metadata", "fd", EventMetadata.at.fd],
        ["fanotify_event_metadata", "pid", EventMetadata.at.pid],
        ["fanotify_response", "response", EventResponse.at.response],
      ] as const;
      const asserts = [
        ...rows.map(([name, size]) => `_Static_assert(sizeof(struct ${name}) == ${size}, "${name}");`),
        ...fields.map(([s, f, at]) => `_Static_assert(offsetof(struct ${s}, ${f}) == ${at}, "${s}.${f}");`),
        '_Static_assert(FAN_ALLOW == 1 && FAN_DENY == 2 && FAN_Q_OVERFLOW == 0x4000, "numbers");',
      ];
      const source = `#include <stddef.h>\n#include <linux/fanotify.h>\n${asserts.join("\n")}\nint main(void) { return 0; }\n`;
      writeFileSync(join(dir, "check.c"), source);
      expect((await run("cc", "-c", join(dir, "check.c"), "-o", join(dir, "check.o"))).stderr).toBe("");
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
);

test("an answer lets through, or denies with an errno in the top byte", () => {
  const bytes = new Uint8Array(8);
  encodeResponse(bytes, 258, 0);
  expect([...bytes]).toEqual([2, 1, 0, 0, 1, 0, 0, 0]);
  encodeResponse(bytes, 258, 5);
  expect([...bytes]).toEqual([2, 1, 0, 0, 2, 0, 0, 5]);
});
