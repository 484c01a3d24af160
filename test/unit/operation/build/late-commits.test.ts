import { expect, test } from "bun:test";
import { parseDigest } from "../../../../src/base/digest.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import { LateCommits } from "../../../../src/operation/build/late-commits.ts";

const digest = parseDigest(`sha256:${"ab".repeat(32)}`);

/** A sink whose commit ends when it is told to; what happens to it is noted. */
class SlowSink implements AsyncDisposable {
  readonly events: string[] = [];
  readonly end = Promise.withResolvers<void>();

  async write(data: Uint8Array): Promise<void> {
    this.events.push(`write ${data.length}`);
  }

  async commit(): Promise<void> {
    this.events.push("commit");
    await this.end.promise;
    this.events.push("committed");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.events.push("disposed");
  }
}

async function build(commits: LateCommits, slow: SlowSink): Promise<void> {
  await using sink = commits.sink(slow, { path: "a" });
  await sink.write(new Uint8Array(3));
  await sink.commit(digest, 3);
}

test("a commit is not waited for but by all(), and its sink is disposed after it", async () => {
  await using commits = new LateCommits();
  const slow = new SlowSink();
  await build(commits, slow);
  const all = commits.all();
  await Bun.sleep(1);
  expect(slow.events).toEqual(["write 3", "commit"]);
  slow.end.resolve();
  await all;
  expect(slow.events).toEqual(["write 3", "commit", "committed", "disposed"]);
});

test("all() throws what a commit failed with, its place added, and the sink is disposed all the same", async () => {
  const [good, bad] = [new SlowSink(), new SlowSink()];
  {
    await using commits = new LateCommits();
    await build(commits, good);
    await build(commits, bad);
    bad.end.reject(new NydusError("ENOSPC", "Cannot write: the disk is full"));
    const failed = commits.all().then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(await failed).toMatchObject({ code: "ENOSPC", at: { path: "a" } });
    expect(good.events).not.toContain("disposed");
    good.end.resolve();
  }
  expect(good.events.at(-1)).toBe("disposed");
  expect(bad.events).toEqual(["write 3", "commit", "disposed"]);
});

test("a sink that is left uncommitted is disposed at once", async () => {
  await using commits = new LateCommits();
  const slow = new SlowSink();
  {
    await using _ = commits.sink(slow, {});
  }
  expect(slow.events).toEqual(["disposed"]);
});
