import { expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import { parseReadiness, READY_FD_VARIABLE, readinessReporter } from "../../../../src/operation/mount/readiness.ts";

/** What a reporter writes to its descriptor. */
function reported(report: (reporter: ReturnType<typeof readinessReporter>) => void): string {
  const dir = mkdtempSync(join(tmpdir(), "nydus-ready-"));
  const fd = openSync(join(dir, "answer"), "w");
  const environment = { [READY_FD_VARIABLE]: String(fd), OTHER: "kept" };
  try {
    report(readinessReporter(environment));
    expect(environment as object).toEqual({ OTHER: "kept" });
    return readFileSync(join(dir, "answer"), "utf8");
  } finally {
    try {
      closeSync(fd);
    } catch {
      // the reporter closed it
    }
    rmSync(dir, { recursive: true, force: true });
  }
}

function caught(fn: () => unknown): NydusError {
  try {
    fn();
  } catch (error) {
    if (error instanceof NydusError) return error;
  }
  throw new Error("no NydusError");
}

test("the first answer crosses over, later ones do not", () => {
  const line = reported((reporter) => {
    reporter.ready({ pid: 7 });
    reporter.failed(new Error("later"));
  });
  expect(parseReadiness<{ pid: number }>(line)).toEqual({ pid: 7 });
});

test("a failure crosses over with its code, sentence and place", () => {
  const line = reported((reporter) =>
    reporter.failed(new NydusError("EBADMSG", "Cannot verify", { path: "/x", offset: 3 })),
  );
  expect(caught(() => parseReadiness(line))).toMatchObject({
    code: "EBADMSG",
    message: "Cannot verify",
    at: { path: "/x", offset: 3 },
  });
});

test("silence and nonsense are errors of the program", () => {
  for (const line of ["", "{", '{"ok":false,"code":"EWHAT","message":"x","at":{}}']) {
    expect(caught(() => parseReadiness(line)).code).toBe("EFAULT");
  }
});

test("without a descriptor the reporter says nothing", () => {
  const reporter = readinessReporter({});
  reporter.ready(1);
  reporter.failed(new Error("x"));
});
