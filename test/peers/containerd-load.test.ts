import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ContainerdHost } from "../kit/containerd.ts";
import { OciDraft } from "../kit/oci-image.ts";
import { BUSYBOX, findContainerds, missingPeers } from "../kit/peers.ts";
import { isBuilt } from "../kit/program.ts";
import { shell } from "../kit/shell.ts";

const canRun = isBuilt && missingPeers().length === 0;
const GREETING = "hello from the image";

let dir: string;
let image: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "nydus-local-"));
  if (!canRun) return;
  const root = join(dir, "root");
  mkdirSync(join(root, "bin"), { recursive: true });
  copyFileSync(BUSYBOX, join(root, "bin", "busybox"));
  chmodSync(join(root, "bin", "busybox"), 0o755);
  symlinkSync("busybox", join(root, "bin", "cat"));
  writeFileSync(join(root, "greeting"), GREETING);
  await shell(`tar cf ${dir}/layer.tar -C ${root} .`);
  const draft = new OciDraft(join(dir, "oci"));
  image = draft.name(draft.addImage([draft.addLayer(readFileSync(join(dir, "layer.tar")))]), "x");
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

test.skipIf(!canRun)("the program, containerd, nerdctl, runc and busybox are here", () => expect(canRun).toBe(true));

// There is no registry anywhere in these tests.
describe.skipIf(!canRun).each(canRun ? findContainerds() : [])("under $name", (containerd) => {
  const greet = (host: ContainerdHost, name: string): Promise<string> =>
    host.ok("nerdctl", "run", "--rm", "--net", "none", name, "/bin/cat", "/greeting");

  test("an image converted inside containerd, saved, removed and loaded runs each time", async () => {
    await using host = await ContainerdHost.start(containerd);
    await host.ok("nydus", "copy", image, "containerd:local");
    await host.ok("nydus", "convert", "containerd:local", "containerd:local:nydus");
    expect(await greet(host, "local:nydus")).toBe(GREETING);
    await host.ok("nerdctl", "save", "-o", join(dir, "saved.tar"), "local:nydus");
    await host.ok("nerdctl", "rmi", "-f", "local:nydus", "local");
    expect(await host.listed("content", "ls", "-q")).toEqual([]);
    expect(await host.listed("snapshots", "--snapshotter", "nydus", "ls")).toEqual([]);
    expect(await host.ok("nydus", "load", "-q", "-i", join(dir, "saved.tar"))).toContain(
      "docker.io/library/local:nydus",
    );
    expect(await greet(host, "local:nydus")).toBe(GREETING);
    expect(await host.listed("leases", "ls", "-q")).toEqual([]);
  }, 120_000);

  test("an image that was only imported runs once it is prepared", async () => {
    await using host = await ContainerdHost.start(containerd);
    await host.ok("nydus", "convert", image, `oci-archive:${dir}/imported.tar:docker.io/library/imported:1`);
    await host.ok("ctr", "images", "import", "--no-unpack", `${dir}/imported.tar`);
    expect((await host.nerdctl("run", "--rm", "--net", "none", "imported:1", "/bin/cat", "/greeting")).status).not.toBe(
      0,
    );
    await host.ok("nydus", "prepare", "-q", "imported:1");
    expect(await greet(host, "imported:1")).toBe(GREETING);
  }, 120_000);
});
