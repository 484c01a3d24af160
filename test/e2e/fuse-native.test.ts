import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { openFuseNativeHost } from "../../src/operation/mount/fuse/native-engine.ts";
import { listMounts } from "../../src/operation/mount/mount-record.ts";
import { mapFile } from "../../src/os/mmap.ts";
import { findMount } from "../../src/os/mount.ts";
import { canMount, type MountFixture, makeMountFixture } from "../kit/mount-fixture.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, type TreeEntry, treeOf } from "../kit/tree.ts";

const ROOT = join(import.meta.dir, "..", "..");
const NODE = "/usr/bin/node";
const hasNative =
  canMount &&
  existsSync(NODE) &&
  existsSync(join(ROOT, "node_modules", "fuse-native")) &&
  Bun.which("fusermount") !== null &&
  (await run("sh", "-c", "ldconfig -p | grep -q libfuse.so.2")).status === 0;

/** The package carries whole milliseconds. */
function isDeparture(field: keyof TreeEntry, left: TreeEntry, right: TreeEntry): boolean {
  return field === "mtime" && `${left.mtime.slice(0, -6)}000000` === right.mtime;
}

describe.skipIf(!hasNative)("fuse-native under Node", () => {
  let fixture: MountFixture;
  let program = "";
  let server: Bun.Subprocess<"ignore", "pipe", "pipe"> | undefined;

  beforeAll(async () => {
    fixture = makeMountFixture();
    const outdir = join(ROOT, "node_modules", ".cache", "nydus-fuse-native");
    const built = await Bun.build({
      entrypoints: [join(ROOT, "test", "kit", "mount-program.ts")],
      target: "node",
      external: ["fuse-native"],
      outdir,
      naming: "mount-program.mjs",
    });
    expect(built.success).toBe(true);
    program = join(outdir, "mount-program.mjs");
  });
  afterAll(() => fixture[Symbol.dispose]());

  afterEach(async () => {
    server?.kill("SIGKILL");
    await server?.exited;
    const left = findMount(fixture.mountpoint)?.type;
    await run("umount", "-l", fixture.mountpoint);
    expect(left).toBeUndefined();
  });

  async function start(): Promise<Bun.Subprocess<"ignore", "pipe", "pipe">> {
    const { dir, mountpoint, bootstrapPath, blobPath } = fixture;
    const command = [NODE, program, "serve", join(dir, "root"), mountpoint, bootstrapPath, blobPath];
    server = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const { value } = await server.stdout.getReader().read();
    if (value === undefined) throw new Error(await new Response(server.stderr).text());
    return server;
  }

  test("shows the tree that mkfs.erofs packed, and unmounts at SIGTERM", async () => {
    const { exited, kill } = await start();
    expect(diffTrees(await treeOf(fixture.source), await treeOf(fixture.mountpoint), { ignore: isDeparture })).toEqual(
      [],
    );
    expect(listMounts(join(fixture.dir, "root")).map(({ engine, state }) => [engine, state])).toEqual([
      ["fuse-native", "serving"],
    ]);
    kill.call(server, "SIGTERM");
    expect(await exited).toBe(0);
  });

  test("ends when it is unmounted from outside", async () => {
    const { exited } = await start();
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
    await shell(`umount ${fixture.mountpoint}`);
    expect(await exited).toBe(0);
  });
});

test.skipIf(!canMount)("fuse-native says that it cannot run inside Bun", async () => {
  using fixture = makeMountFixture();
  const { mountpoint, bootstrapPath } = fixture;
  using bootstrap = mapFile(bootstrapPath);
  const options = { mountpoint, bootstrap, devices: [] };
  const error = await openFuseNativeHost()
    .mount(options)
    .catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "ENOTSUP" });
});
