import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { canMount } from "../kit/mount-fixture.ts";
import { OciDraft } from "../kit/oci-image.ts";
import { isBuilt, nydus, nydusOk } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";

const FILE_BYTES = 300_000;
/** How long a prefetch may take, and how long to look whether there is none. */
const WAIT_MS = 20_000;
const STILL_MS = 300;

let dir: string;
let plain: string;

/** A value of the daemon's metrics. */
async function metric(root: string, name: string): Promise<number> {
  const answer = await fetch("http://daemon/metrics", { unix: join(root, "daemon.sock") });
  const line = (await answer.text()).split("\n").find((one) => one.startsWith(`${name} `));
  return Number(line?.split(" ")[1]);
}

/** Mounts, waits for `wanted` bytes or for a moment, and says how many have been prefetched; nobody reads. */
async function prefetched(wanted: number, image: string, ...flags: string[]): Promise<number> {
  const mountpoint = mkdtempSync(join(dir, "mnt-"));
  const root = mkdtempSync(join(dir, "root-"));
  try {
    await nydusOk("--root", root, "mount", ...flags, image, mountpoint);
    let done = 0;
    for (let waited = 0; waited < (wanted > 0 ? WAIT_MS : STILL_MS) && (done < wanted || wanted === 0); waited += 50) {
      await Bun.sleep(50);
      done = await metric(root, 'nydus_prefetch_bytes_total{state="done"}');
    }
    expect(await metric(root, 'nydus_fetched_bytes_total{cause="demand"}')).toBe(0);
    return done;
  } finally {
    await run("umount", "-l", mountpoint);
    await nydus("--root", root, "daemon", "stop");
  }
}

describe.skipIf(!isBuilt || !canMount)("nydus mount --prefetch", () => {
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "nydus-e2e-prefetch-"));
    const tree = join(dir, "tree");
    mkdirSync(join(tree, "sub"), { recursive: true });
    for (const name of ["a", "b", "sub/c", "sub/d"]) writeFileSync(join(tree, name), randomBytes(FILE_BYTES));
    writeFileSync(join(dir, "list"), "/a\nsub\nmissing\n");
    await shell(`cd '${tree}' && ln -s a link && tar -cf ../layer.tar *`);
    const draft = new OciDraft(join(dir, "oci"));
    plain = draft.name(draft.addImage([draft.addLayer(readFileSync(join(dir, "layer.tar")))]), "plain");
  }, 60_000);
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  const convert = async (ref: string, ...flags: string[]): Promise<string> => {
    const image = `oci:${join(dir, "oci")}:${ref}`;
    await nydusOk("--root", join(dir, "convert"), "convert", ...flags, plain, image);
    return image;
  };

  test("all, none and a list bring what they say, without a reader", async () => {
    const image = await convert("nydus");
    expect(await prefetched(0, image)).toBe(0);
    expect(await prefetched(4 * FILE_BYTES, image, "--prefetch", "all")).toBeGreaterThanOrEqual(4 * FILE_BYTES);
    writeFileSync(join(dir, "one"), "/link\n");
    expect(await prefetched(FILE_BYTES, image, "--prefetch", join(dir, "one"))).toBe(FILE_BYTES);
  }, 60_000);

  test("an image converted with a list carries it: mounts follow it unless told otherwise", async () => {
    const image = await convert("listed", "--prefetch-files", join(dir, "list"));
    const found = await prefetched(3 * FILE_BYTES, image);
    expect(found).toBeGreaterThanOrEqual(3 * FILE_BYTES);
    expect(found).toBeLessThan(4 * FILE_BYTES);
    expect(await prefetched(0, image, "--prefetch", "none")).toBe(0);
    await nydusOk("check", image);
  }, 60_000);

  test("a list that is not there is an error, and nothing is mounted", async () => {
    const image = await convert("nydus");
    const root = mkdtempSync(join(dir, "root-"));
    const mountpoint = mkdtempSync(join(dir, "mnt-"));
    const failed = nydusOk("--root", root, "mount", "--prefetch", join(dir, "nowhere"), image, mountpoint);
    expect(await failed.then(() => "", String)).toContain("status 3");
    expect((await run("mountpoint", "-q", mountpoint)).status).not.toBe(0);
    await nydus("--root", root, "daemon", "stop");
  }, 60_000);
});
