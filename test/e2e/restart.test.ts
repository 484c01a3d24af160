import { afterAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, rmSync, symlinkSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isBuilt, PROGRAM } from "../kit/program.ts";
import { run } from "../kit/shell.ts";

const dir = mkdtempSync(join(tmpdir(), "nydus-restart-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const hasStrace = Bun.which("strace") !== null;

describe.skipIf(!isBuilt)("nydus convert, which starts itself anew", () => {
  test.skipIf(!hasStrace)("does so once, and other commands do not", async () => {
    const trace = join(dir, "trace");
    const starts = async (...words: string[]): Promise<number> => {
      await run("strace", "-f", "-e", "trace=execve", "-o", trace, PROGRAM, "--root", dir, ...words);
      return (await Bun.file(trace).text()).match(/execve\(/g)?.length ?? 0;
    };
    expect(await starts("convert", `oci:${dir}/none:a`, `oci:${dir}/out:a`)).toBe(2);
    expect(await starts("images")).toBe(1);
  });

  test("keeps its words as they are", async () => {
    const source = `oci:${dir}/no such "directory":ü`;
    const { stderr, status } = await run(PROGRAM, "--root", dir, "convert", source, `oci:${dir}/out:a`);
    expect([status, stderr]).toEqual([3, expect.stringContaining('no such "directory"')]);
  });

  test("keeps the name that it was started under", async () => {
    const link = join(dir, "nydus-image");
    symlinkSync(PROGRAM, link);
    expect((await run(link, "create", "--help")).stdout).toContain("nydus-image create");
  });

  test("goes on as it is where its file is gone", async () => {
    const copy = join(dir, "copy");
    copyFileSync(PROGRAM, copy);
    // The shell waits until the file is gone; /proc/self/fd names it still.
    const script = `exec 9<"$0"; rm "$0"; exec -a nydus /proc/self/fd/9 --root "$1" convert "oci:$1/none:a" "oci:$1/out:a"`;
    const { stderr, status } = await run("bash", "-c", script, copy, dir);
    expect([status, stderr]).toEqual([3, expect.stringContaining("none")]);
    expect(() => unlinkSync(copy)).toThrow();
  });
});
