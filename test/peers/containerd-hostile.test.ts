import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { LABELS } from "../../src/format/containerd/labels.ts";
import { type ContainerdMount, decodeMount, SNAPSHOTS_SERVICE } from "../../src/format/containerd/snapshots-schema.ts";
import { GrpcClient, type Message } from "../../src/os/grpc.ts";
import { chainOf } from "../kit/containerd-chains.ts";
import { ContainerdWorld } from "../kit/containerd-world.ts";
import { pushHostile } from "../kit/hostile-image.ts";
import { findContainerds, missingPeers } from "../kit/peers.ts";
import { Random } from "../kit/random.ts";
import { shell } from "../kit/shell.ts";
import { mountAt, umountAt } from "../kit/snapshotter-process.ts";

const MARK = "MARK-of-hostile-text";
const LONG_BYTES = 65_536;
const OVERLAY_PATHS = /^(?:lowerdir|upperdir|workdir)=(.*)$/;

/** Texts that are meant to be taken for commands, paths, options, lines of a log, or for their end. */
const TEXTS: Readonly<Record<string, string>> = {
  "shell syntax": `$(touch /tmp/${MARK})\`touch /tmp/${MARK}\`; touch /tmp/${MARK} | sh & '"\\`,
  "a new line": `x\n${MARK} serves everything\r\n`,
  "a way up": `../../../../../../../../../../../../tmp/${MARK}`,
  "an absolute path": `/tmp/${MARK}`,
  "mount options": `,lowerdir=/tmp/${MARK}:/etc,upperdir=/tmp/${MARK}`,
  "a NUL": `/tmp/${MARK}\u0000/x`,
  "a word of JavaScript": "__proto__",
  "an option": `--root=/tmp/${MARK}`,
};
const ALL_TEXTS: Readonly<Record<string, string>> = { ...TEXTS, "64 KiB": MARK.repeat(LONG_BYTES / MARK.length) };

const newest = findContainerds().at(-1);

describe.skipIf(missingPeers().length > 0 || newest === undefined)("text of an image that an attacker has made", () => {
  let world: ContainerdWorld;
  let client: GrpcClient;
  /** Records of an image that is nobody's business. */
  let others: readonly string[];

  beforeAll(async () => {
    if (newest === undefined) return;
    world = await ContainerdWorld.open(newest);
    client = new GrpcClient(world.host.snapshotterAddress);
    await world.pull("nydus");
    await world.pull("oci");
    const { id } = await world.run("nydus");
    // What pulling and starting needed for a moment goes with one of containerd's collections, whenever that is.
    others = records().filter((record) => {
      const { key, kind } = JSON.parse(record) as { key: string; kind: string };
      return kind === "committed" || key.endsWith(`/${id}`);
    });
  });
  afterAll(async () => {
    client?.[Symbol.dispose]();
    await world?.[Symbol.asyncDispose]();
  });

  function snapshots(...path: string[]): string {
    return join(world.host.root, "snapshotter", "snapshots", ...path);
  }

  function records(): string[] {
    return readdirSync(snapshots()).flatMap((name) => textOf(snapshots(name, "snapshot.json")));
  }

  /** Where a text has come to count for something. */
  async function effects(): Promise<string[]> {
    await world.check(new Random(1));
    const named = (
      await shell(
        `find /tmp -maxdepth 1 -name '*${MARK}*'; find ${world.host.root} -ignore_readdir_race -name '*${MARK}*'`,
      )
    ).trim();
    const odd = readdirSync(snapshots()).filter((name) => !/^\d+$/.test(name));
    const commands = world.host
      .processes()
      .filter((pid) => textOf(`/proc/${pid}/cmdline`).some((line) => line.includes(MARK)));
    const logs = readdirSync(join(world.host.root, "logs")).map((name) => join(world.host.root, "logs", name));
    const lines = [...logs, join(world.host.dir, "snapshotter.log")].flatMap((path) =>
      readFileSync(path, "utf8").split("\n"),
    );
    const forged = lines.filter((line) => line.startsWith(MARK) || line.includes("\0"));
    const now = new Set(records());
    const changed = others.filter((record) => !now.has(record));
    return [named, ...odd, ...commands.map(String), ...forged, ...changed].filter((found) => found !== "");
  }

  const annotationsOf = (text: string): Record<string, string> => ({
    "containerd.io/snapshot/hostile": text,
    [`containerd.io/snapshot/${text}`]: text,
    [LABELS.imageRef]: text,
    [LABELS.layerDigest]: text,
    [LABELS.nydusRef]: text,
    [LABELS.snapshotRef]: text,
  });

  describe.each(["oci", "nydus"] as const)("in an image made of %s", (image) => {
    test.each(Object.entries(TEXTS))("%s does nothing, and the image runs", async (_, text) => {
      const tag = `hostile-${image}-${Object.values(TEXTS).indexOf(text)}`;
      const labels = { hostile: text, [text]: text };
      const reference = await pushHostile(world.reference(image), tag, { annotations: annotationsOf(text), labels });
      await world.host.ok("nerdctl", "pull", "-q", reference);
      const id = await world.host.ok("nerdctl", "create", "--net", "none", reference, "/none");
      expect(await effects()).toEqual([]);
      await world.host.ok("nerdctl", "rm", "-f", id);
      await world.host.ok("nerdctl", "rmi", reference);
      expect(await effects()).toEqual([]);
    });

    test("64 KiB of it are refused by containerd, or do nothing", async () => {
      const long = ALL_TEXTS["64 KiB"] ?? "";
      const text = { annotations: annotationsOf(long), labels: { hostile: long } };
      const reference = await pushHostile(world.reference(image), `hostile-${image}-long`, text);
      await world.host.nerdctl("pull", "-q", reference);
      await world.host.nerdctl("rmi", "-f", reference);
      expect(await effects()).toEqual([]);
    });
  });

  async function mountsOf(method: string, request: Message): Promise<ContainerdMount[]> {
    return (await client.call(SNAPSHOTS_SERVICE, method, request))["mounts"].map(decodeMount);
  }

  /** Paths that mounts name; all else in them is no text of an image. */
  function pathsOf(mounts: readonly ContainerdMount[]): string[] {
    return mounts.flatMap(({ type, source, options }) => {
      const named = options.flatMap((option) => OVERLAY_PATHS.exec(option)?.[1]?.split(":") ?? []);
      return type === "bind" ? [source] : named;
    });
  }

  test.each(Object.entries(ALL_TEXTS))(
    "%s as the key, the name and each label of a snapshot is only text",
    async (_, text) => {
      const labels = { ...annotationsOf(text), [LABELS.nydusBootstrap]: text };
      const unpacked = await mountsOf("Prepare", { key: `a/1/${text}`, parent: "", labels });
      const top = readdirSync(snapshots()).find((name) => {
        const keys = textOf(snapshots(name, "snapshot.json")).map((text) => (JSON.parse(text) as { key: string }).key);
        return keys[0]?.endsWith(chainOf("nydus"));
      });
      mkdirSync(join(unpacked[0]?.source ?? "", "image"));
      cpSync(snapshots(top ?? "", "fs", "image", "image.boot"), join(unpacked[0]?.source ?? "", "image", "image.boot"));
      await client.call(SNAPSHOTS_SERVICE, "Commit", { key: `a/1/${text}`, name: `a/2/${text}`, labels });
      const mounts = await mountsOf("Prepare", {
        key: `a/3/${text}`,
        parent: `a/2/${text}`,
        labels: annotationsOf(text),
      });
      for (const path of [...pathsOf(unpacked), ...pathsOf(mounts)]) {
        expect(path).toMatch(/\/snapshots\/\d+\/(fs|work|mnt)$/);
        expect(path.startsWith(snapshots())).toBe(true);
      }
      const dir = join(world.host.dir, "shown");
      await mountAt(mounts, dir);
      const isShown = existsSync(join(dir, "tail"));
      await umountAt(dir);
      expect(isShown).toBe(true);
      const { info } = await client.call(SNAPSHOTS_SERVICE, "Stat", { key: `a/2/${text}` });
      expect(info.labels).toEqual(labels);
      expect(await effects()).toEqual([]);
      for (const key of [`a/3/${text}`, `a/2/${text}`]) await client.call(SNAPSHOTS_SERVICE, "Remove", { key });
      expect(await effects()).toEqual([]);
    },
  );
});

/** A file's text; nothing when it has just gone: containerd and the snapshotter remove what is not needed while we look. */
function textOf(path: string): string[] {
  try {
    return [readFileSync(path, "utf8")];
  } catch {
    return [];
  }
}
