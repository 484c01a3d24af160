import { expect, test } from "bun:test";
import { formatBytes, openProgress, type ProgressScreen } from "../../../src/cli/progress.ts";

const A = { digest: `sha256:${"a".repeat(64)}`, sizeBytes: 2048 };
const B = { digest: `sha256:${"b".repeat(64)}`, sizeBytes: 10 };

function screen(isTerminal: boolean, width = 200): ProgressScreen & { text: string; ms: number } {
  return {
    isTerminal,
    width,
    text: "",
    ms: 0,
    write(text) {
      this.text += text;
    },
    now() {
      return this.ms;
    },
  };
}

/** What a terminal shows after text with the two sequences that progress uses. */
function shown(text: string): string[] {
  let lines: string[] = [];
  for (const part of text.split(/(\p{Cc}\[\d+A\p{Cc}\[J|\n)/u)) {
    const up = /^\p{Cc}\[(\d+)A/u.exec(part);
    if (up !== null) lines = lines.slice(0, lines.length - Number(up[1]));
    else if (part !== "" && part !== "\n") lines.push(part);
  }
  return lines;
}

test("a terminal shows one line a layer, redrawn in place", () => {
  const at = screen(true);
  const progress = openProgress({ quiet: false }, at);
  progress.layerStarted(A);
  progress.layerStarted(B);
  at.ms = 500;
  progress.layerAdvanced(A, 1024);
  expect(shown(at.text)).toEqual([
    "layer aaaaaaaaaaaa   50%  1.0 KiB of 2.0 KiB, 2.0 KiB/s",
    "layer bbbbbbbbbbbb    0%  0 B of 10 B, 0 B/s",
  ]);
  at.ms = 1000;
  progress.layerDone(A, { blobBytes: 700 });
  progress.layerDone(B, { blobBytes: 9, reused: true });
  progress.step("merging 2 layers");
  progress.close();
  expect(shown(at.text)).toEqual([
    "merging 2 layers",
    "layer aaaaaaaaaaaa  done  blob of 700 B, 2.0 KiB/s",
    "layer bbbbbbbbbbbb  done  blob of 9 B, there already",
  ]);
});

test("a terminal is not redrawn for every piece, and its lines are not wider than it", () => {
  const at = screen(true, 20);
  const progress = openProgress({ quiet: false }, at);
  progress.layerStarted(A);
  const before = at.text;
  for (let i = 0; i < 100; i++) progress.layerAdvanced(A, 1);
  expect(at.text).toBe(before);
  expect(shown(at.text)[0]).toHaveLength(19);
});

test("what is no terminal gets a plain line when a layer starts and when it is done", () => {
  const at = screen(false);
  const progress = openProgress({ quiet: false }, at);
  progress.layerStarted(A);
  at.ms = 500;
  progress.layerAdvanced(A, 2048);
  at.ms = 1000;
  progress.layerDone(A, { blobBytes: 700 });
  progress.step("writing manifest");
  progress.close();
  expect(at.text).toBe(
    "layer aaaaaaaaaaaa: converting 2.0 KiB\nlayer aaaaaaaaaaaa: done, blob of 700 B, 2.0 KiB/s\nwriting manifest\n",
  );
});

test("--quiet prints nothing", () => {
  const at = screen(true);
  const progress = openProgress({ quiet: true }, at);
  progress.layerStarted(A);
  progress.layerDone(A, { blobBytes: 1 });
  progress.step("x");
  progress.close();
  expect(at.text).toBe("");
});

test.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1024, "1.0 KiB"],
  [1536, "1.5 KiB"],
  [1 << 20, "1.0 MiB"],
  [5 * 2 ** 40, "5.0 TiB"],
  [5 * 2 ** 50, "5120.0 TiB"],
])("formatBytes(%d) is %s", (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});
