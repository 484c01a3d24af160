import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { digestOfHex } from "../../../../src/base/digest.ts";
import { Lease } from "../../../../src/content/local/lease.ts";
import { storePaths } from "../../../../src/content/local/paths.ts";
import type { MountBody } from "../../../../src/service/daemon/api.ts";
import { DaemonMounts } from "../../../../src/service/snapshotter/daemon-mounts.ts";
import type { SnapshotImage } from "../../../../src/service/snapshotter/image-mounts.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const REF = "containerd.io/snapshot/cri.image-ref";
const STARGZ_REF = "containerd.io/snapshot/remote/stargz.reference";
const ID = "ab".repeat(32);
const OTHER_ID = "cd".repeat(32);

let dir: string;
let root: string;
let server: Server;
let bodies: MountBody[];
let held: ServerResponse[] | undefined;
let gone: number;
let logged: string[];
let mounts: DaemonMounts;

/** A daemon that mounts nothing, but writes down what it is asked for. */
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "nydus-daemon-mounts-"));
  root = join(dir, "root");
  mkdirSync(root);
  [bodies, held, gone, logged] = [[], undefined, 0, []];
  server = createServer((request, response) => {
    let text = "";
    request.on("data", (piece) => {
      text += String(piece);
    });
    request.on("end", () => {
      bodies.push(JSON.parse(text) as MountBody);
      response.on("close", () => void (response.writableEnded || gone++));
      if (held === undefined) response.writeHead(200, { connection: "close" }).end("{}");
      else held.push(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(join(root, "daemon.sock"), resolve));
  mounts = new DaemonMounts({
    root,
    containerdAddress: "/run/c.sock",
    command: ["false"],
    log: (message) => logged.push(message),
  });
});
afterEach(async () => {
  for (const response of held ?? []) response.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(dir, { recursive: true, force: true });
});

function snapshot(labels: Record<string, string> = {}, name = "k8s.io/7/sha256:1"): SnapshotImage {
  return {
    snapshotId: "7",
    name,
    bootstrapDir: "/snapshots/7/fs",
    mountpoint: join(dir, "mnt"),
    labels: new Map(Object.entries(labels)),
  };
}

async function placesOf(labels: Record<string, string>, name?: string): Promise<unknown> {
  await mounts.mount(snapshot(labels, name), new AbortController().signal);
  const { image } = bodies.at(-1) as MountBody;
  return "blobs" in image ? image.blobs : undefined;
}

const CONTAINERD = { containerd: { address: "/run/c.sock", namespace: "k8s.io" } };

describe("where the blobs of a snapshot are looked for", () => {
  test("is containerd, in the namespace of its name, then the repository that the label names", async () => {
    expect(await placesOf({ [REF]: "ghcr.io/a/b:1" })).toEqual([
      CONTAINERD,
      { registry: { reference: "ghcr.io/a/b:1" } },
    ]);
    expect(bodies[0]).toMatchObject({
      image: { bootstrapDir: "/snapshots/7/fs" },
      shown: "ghcr.io/a/b:1",
      mountpoint: join(dir, "mnt"),
    });
  });

  test("is what the older label names where the newer is not there, or empty", async () => {
    const named = [CONTAINERD, { registry: { reference: "docker.io/library/a:latest" } }];
    expect(await placesOf({ [STARGZ_REF]: "a" })).toEqual(named);
    expect(await placesOf({ [STARGZ_REF]: "a", [REF]: "" })).toEqual(named);
  });

  const hostile = [
    "../../etc",
    "http://169.254.169.254/x",
    "a b",
    "host/a\n$(reboot)",
    "-o/x",
    `a@sha256:${"g".repeat(64)}`,
    "x".repeat(4000),
    ID,
    "\u001b[2Jx",
  ];
  test.each(hostile)(
    "is containerd only where the label says %j, which is logged on one printable line",
    async (text) => {
      expect(await placesOf({ [REF]: text })).toEqual([CONTAINERD]);
      expect(bodies[0]?.shown).toBe("snapshot 7");
      expect(logged.length).toBe(1);
      expect(logged[0]).toMatch(/^[\x20-\x7e…]{1,400}$/);
    },
  );

  test.each(["", "/1/x", "../1/x", "a b/1/x", `${"n".repeat(77)}/1/x`])(
    "is the registry only where the name %j has no namespace",
    async (name) => {
      expect(await placesOf({ [REF]: "h.test/a:1" }, name)).toEqual([{ registry: { reference: "h.test/a:1" } }]);
    },
  );
});

describe("mounting", () => {
  test("is asked for once by fifty callers, and goes on when some of them give up", async () => {
    held = [];
    const early = new AbortController();
    const gaveUp = [1, 2, 3].map(() => failureOf(mounts.mount(snapshot(), early.signal)));
    const calls = Array.from({ length: 47 }, () => mounts.mount(snapshot(), new AbortController().signal));
    while (held.length === 0) await Bun.sleep(5);
    early.abort();
    for (const failure of gaveUp) expect(await failure).toMatchObject({ code: "ECANCELED" });
    held[0]?.writeHead(200, { connection: "close" }).end("{}");
    await Promise.all(calls);
    expect([bodies.length, gone]).toEqual([1, 0]);
  });

  test("is given up when all have given up, and the next caller begins anew", async () => {
    held = [];
    const only = new AbortController();
    const first = failureOf(mounts.mount(snapshot(), only.signal));
    while (held.length === 0) await Bun.sleep(5);
    only.abort();
    expect(await first).toMatchObject({ code: "ECANCELED" });
    held = undefined;
    await mounts.mount(snapshot(), new AbortController().signal);
    expect(bodies.length).toBe(2);
    while (gone < 1) await Bun.sleep(5);
  });

  test("fails for all as the daemon says", async () => {
    held = [];
    const calls = [1, 2].map(() => failureOf(mounts.mount(snapshot(), new AbortController().signal)));
    while (held.length === 0) await Bun.sleep(5);
    const body = { error: { code: "EUCLEAN", message: "Cannot open bootstrap: it is bad", at: {} } };
    held[0]?.writeHead(500, { connection: "close" }).end(JSON.stringify(body));
    for (const call of calls) expect(await call).toMatchObject({ code: "EUCLEAN" });
  });

  test("nothing is no mount, and unmounting nothing is fine", async () => {
    expect(mounts.isMounted(join(dir, "nowhere"))).toBe(false);
    expect(mounts.isMounted(dir)).toBe(false);
    await mounts.umount(join(dir, "nowhere"));
    await mounts.umount(dir);
  });
});

describe("caches", () => {
  function makeCache(id: string, bytes: number): void {
    mkdirSync(join(root, "cache"), { recursive: true });
    writeFileSync(join(root, "cache", `${id}.data`), Buffer.alloc(bytes, 1));
  }

  test("count what their files take on the disk; none take nothing", async () => {
    expect(await mounts.blobUsageBytes(ID)).toBe(0);
    makeCache(ID, 20_480);
    makeCache(OTHER_ID, 4096);
    expect(await mounts.blobUsageBytes(ID)).toBe(20_480);
    expect(await failureOf(mounts.blobUsageBytes("../x"))).toMatchObject({ code: "EINVAL" });
  });

  test("are swept when nobody needs them", async () => {
    await mounts.sweep(new Set());
    makeCache(ID, 4096);
    makeCache(OTHER_ID, 4096);
    await mounts.sweep(new Set([ID]));
    expect([await mounts.blobUsageBytes(ID), await mounts.blobUsageBytes(OTHER_ID)]).toEqual([4096, 0]);
  });

  test("that a living process has a lease on are not swept", async () => {
    makeCache(ID, 4096);
    {
      await using lease = new Lease(storePaths(root));
      await lease.add(digestOfHex(ID));
      await mounts.sweep(new Set());
      expect(await mounts.blobUsageBytes(ID)).toBe(4096);
    }
    await mounts.sweep(new Set());
    expect(await mounts.blobUsageBytes(ID)).toBe(0);
  });
});
