import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../src/base/errors.ts";
import {
  checkMountpoint,
  findMount,
  MNT_DETACH,
  parseMountInfo,
  resolveMountpoint,
  unescapeMountField,
  unmount,
} from "../../../src/os/mount.ts";

const isRoot = process.getuid?.() === 0;
let dir = "";

beforeEach(() => {
  dir = realpathSync(mkdtempSync(join(tmpdir(), "nydus-mount-")));
});
afterEach(() => {
  spawnSync("umount", ["-l", join(dir, "mnt space\tand\\tab")]);
  rmSync(dir, { recursive: true, force: true });
});

function codeOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
  return "none";
}

describe("mountinfo", () => {
  test("parseMountInfo() reads the example of proc_pid_mountinfo(5)", () => {
    const [mount] = parseMountInfo("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n");
    expect(mount).toEqual({
      mountId: 36,
      parentId: 35,
      major: 98,
      minor: 0,
      root: "/mnt1",
      mountpoint: "/mnt2",
      options: "rw,noatime",
      type: "ext3",
      source: "/dev/root",
      superOptions: "rw,errors=continue",
    });
  });

  test("parseMountInfo() takes lines with no, one or many optional fields and drops what is no mount", () => {
    const text = [
      "1 0 0:1 / / ro - tmpfs none ro",
      "2 1 0:2 / /a ro shared:3 master:4 propagate_from:2 - fuse.nydus nydus ro",
      "short line",
      "3 1 0:x / /b ro - tmpfs none ro",
      "",
    ].join("\n");
    expect(parseMountInfo(text).map((mount) => `${mount.mountpoint} ${mount.type}`)).toEqual([
      "/ tmpfs",
      "/a fuse.nydus",
    ]);
  });

  test.each([
    ["plain", "plain"],
    ["a\\040b\\011c\\134d\\012e", "a b\tc\\d\ne"],
    ["caf\u00e9\\040", "caf\u00e9 "],
    ["\\303\\251", "\u00e9"],
    ["\\04", "\\04"],
    ["\\999", "\\999"],
  ])("unescapeMountField(%p) is %p", (field, wanted) => {
    expect(unescapeMountField(field)).toBe(wanted);
  });

  test.skipIf(!isRoot)("findMount() finds a kernel mount whose path needs every escape, and unmount() ends it", () => {
    const mountpoint = join(dir, "mnt space\tand\\tab");
    mkdirSync(mountpoint);
    expect(findMount(mountpoint)).toBeUndefined();
    expect(spawnSync("mount", ["-t", "tmpfs", "some source", mountpoint]).status).toBe(0);
    expect(findMount(mountpoint)).toMatchObject({ type: "tmpfs", source: "some source" });
    expect(unmount(mountpoint)).toBe("unmounted");
    expect(findMount(mountpoint)).toBeUndefined();
    expect(unmount(mountpoint)).toBe("not-mounted");
  });

  test.skipIf(!isRoot)("unmount() says busy while a process is there, and MNT_DETACH succeeds", async () => {
    const mountpoint = join(dir, "mnt space\tand\\tab");
    mkdirSync(mountpoint);
    expect(spawnSync("mount", ["-t", "tmpfs", "none", mountpoint]).status).toBe(0);
    const holder = Bun.spawn(["sh", "-c", "echo in; read line"], { cwd: mountpoint, stdin: "pipe", stdout: "pipe" });
    await holder.stdout.getReader().read();
    expect(unmount(mountpoint)).toBe("busy");
    expect(unmount(mountpoint, MNT_DETACH)).toBe("unmounted");
    holder.stdin.end();
    await holder.exited;
  });
});

describe("mount points", () => {
  test("resolveMountpoint() follows symlinks", () => {
    mkdirSync(join(dir, "real"));
    symlinkSync("real", join(dir, "link"));
    expect(resolveMountpoint(join(dir, "link"))).toBe(join(dir, "real"));
  });

  test("checkMountpoint() says ENOENT for a missing path and EINVAL for a file", () => {
    writeFileSync(join(dir, "file"), "");
    expect(codeOf(() => checkMountpoint(join(dir, "missing")))).toBe("ENOENT");
    expect(codeOf(() => checkMountpoint(join(dir, "file", "below")))).toBe("ENOENT");
    expect(codeOf(() => checkMountpoint(join(dir, "file")))).toBe("EINVAL");
    expect(checkMountpoint(dir)).toBe(dir);
  });
});
