import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DaemonLog } from "../../../../src/service/daemon/daemon-log.ts";
import { daemonPaths } from "../../../../src/service/daemon/paths.ts";
import { followLog, readLog } from "../../../../src/service/daemon/read-log.ts";

let root: string;
let path: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "nydus-log-"));
  path = daemonPaths(root).log;
});
afterEach(() => rmSync(root, { recursive: true }));

async function textOf(pieces: AsyncIterable<Uint8Array>): Promise<string> {
  let text = "";
  for await (const piece of pieces) text += new TextDecoder().decode(piece);
  return text;
}

test("a log is set aside when it is full, keeps one line an event, and no more than twice its limit", async () => {
  using log = new DaemonLog(path, 1000);
  for (let i = 0; i < 100; i++) log.write(`event ${i}\nsecond line`);
  const sizes = [path, `${path}.1`].map((one) => readFileSync(one).length);
  expect(Math.max(...sizes)).toBeLessThan(1100);
  const lines = (await textOf(readLog(root))).trimEnd().split("\n");
  const numbers = lines.map((line) => Number(/^\d{4}-\d\d-\d\dT[\d:.]+Z event (\d+) second line$/.exec(line)?.[1]));
  expect(numbers).toEqual(Array.from({ length: lines.length }, (_, i) => 100 - lines.length + i));
});

test("what another descriptor adds is in the same file, also after the log was set aside", () => {
  using log = new DaemonLog(path, 200);
  for (let i = 0; i < 10; i++) log.write(`event ${i}`);
  appendFileSync(path, "from stderr\n");
  log.write("after");
  expect(readFileSync(path, "utf8")).toMatch(/^(\S+ event \d\n)*from stderr\n\S+ after\n$/);
});

test("followLog() gives what was, what comes, and what comes after the log was set aside", async () => {
  using log = new DaemonLog(path, 200);
  log.write("first");
  const stop = new AbortController();
  let seen = "";
  for await (const piece of followLog(root, stop.signal)) {
    seen += new TextDecoder().decode(piece);
    if (seen.endsWith("first\n")) log.write("second");
    else if (seen.endsWith("second\n")) {
      for (let i = 0; i < 6; i++) log.write("filler");
      log.write("third");
    } else if (seen.endsWith("third\n")) stop.abort();
  }
  expect(seen).toMatch(/ first\n\S+ second\n(\S+ filler\n)*\S+ third\n$/);
});

test("a directory without a log has an empty one", async () => {
  expect(await textOf(readLog(root))).toBe("");
});
