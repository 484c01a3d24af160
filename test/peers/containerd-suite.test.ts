import { describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killProcessesOf, mountsBelow, unmountBelow } from "../kit/leftovers.ts";
import { CONTAINERD_SUITE, missingPeers } from "../kit/peers.ts";
import { PROGRAM } from "../kit/program.ts";

/** The cases of containerd's snapshotter suite (core/snapshots/testsuite of containerd/v2 2.2.1), in its order and spelling. */
const CASES = [
  ...["Basic", "StatActive", "StatComitted", "TransitivityTest", "PreareViewFailingtest", "Update", "Remove", "Walk"],
  ...["LayerFileupdate", "RemoveDirectoryInLowerLayer", "Chown", "DirectoryPermissionOnCommit"],
  ...["RemoveIntermediateSnapshot", "DeletedFilesInChildSnapshot", "MoveFileFromLowerLayer", "ViewReadonly"],
  ...["StatInWalk", "CloseTwice", "RootPermission", "Rename", "128LayersMount"],
];
const TEST = "TestSnapshotter";

/** What one run of the suite's executable said, and what it left behind. */
interface SuiteRun {
  readonly output: string;
  readonly mounts: readonly string[];
  readonly files: readonly string[];
}

async function runSuite(pattern: string, program = PROGRAM): Promise<SuiteRun> {
  const dir = mkdtempSync(join(tmpdir(), "nydus-suite-"));
  try {
    const env = { ...process.env, TMPDIR: dir, NYDUS_TEST_PROGRAM: program };
    const command = [CONTAINERD_SUITE, "-test.v", "-test.timeout=240s", `-test.run=${pattern}`];
    const child = Bun.spawn(command, { env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const streams = [new Response(child.stdout).text(), new Response(child.stderr).text()];
    const [stdout = "", stderr = ""] = await Promise.all(streams);
    await child.exited;
    return { output: stdout + stderr, mounts: mountsBelow(dir), files: readdirSync(dir) };
  } finally {
    await killProcessesOf(dir);
    await unmountBelow(dir);
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The cases that a run of the suite says it ran, with how they ended. */
function resultsOf(output: string): Map<string, string> {
  const lines = output.matchAll(/^ {4}--- (PASS|FAIL|SKIP): TestSnapshotter\/(\S+) /gm);
  return new Map([...lines].map(([, result = "", name = ""]) => [name, result]));
}

describe.skipIf(missingPeers().length > 0)("containerd's own snapshotter suite", () => {
  test.each(CASES)("%s", async (name) => {
    const { output, mounts, files } = await runSuite(`^${TEST}$/^${name}$`);
    if (resultsOf(output).get(name) !== "PASS") throw new Error(output);
    expect({ mounts, files }).toEqual({ mounts: [], files: [] });
  });

  test("has no other cases, and fails all of them without a snapshotter", async () => {
    const results = resultsOf((await runSuite(`^${TEST}$`, "/bin/false")).output);
    expect([...results.keys()].sort()).toEqual([...CASES].sort());
    expect(new Set(results.values())).toEqual(new Set(["FAIL"]));
  });
});
