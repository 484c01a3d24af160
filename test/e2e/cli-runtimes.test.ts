import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toHex } from "../../src/base/digest.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import { smallGolden } from "../kit/golden.ts";
import { isBuilt, nydusOk, PROGRAM } from "../kit/program.ts";
import { otherRuntimes } from "../kit/runtimes.ts";
import { run, shell } from "../kit/shell.ts";

const IMAGES = `oci:${join(smallGolden(), "images")}`;
const SOURCE = `${IMAGES}:oci`;

let dir: string;
let wanted: { readonly chunks: readonly string[]; readonly tar: string };
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "nydus-runtimes-"));
  if (isBuilt) wanted = await convertAndUnpack([PROGRAM], join(dir, "bun"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Converts with one runtime: the digests of all chunks in their order, and the digest of the tree as a tar. */
async function convertAndUnpack(command: readonly string[], into: string): Promise<typeof wanted> {
  const state = ["--quiet", "--root", join(into, "state")];
  const image = `oci:${join(into, "image")}:x`;
  const { status, stderr } = await run(...command, ...state, "convert", SOURCE, image);
  expect([status, stderr]).toEqual([0, ""]);
  const tar = await shell(
    `set -o pipefail; ${[...command, ...state, "unpack", image, "-"].map((word) => `'${word}'`).join(" ")} | sha256sum`,
  );
  const [stored] = readdirSync(join(into, "state", "bootstraps"));
  const rafs = openRafs(
    new Uint8Array(readFileSync(join(into, "state", "bootstraps", stored as string, "image.boot"))),
  );
  const chunks = rafs.blobs.flatMap(({ index }) => {
    const map = rafs.chunkMap(index);
    return Array.from(
      { length: map.count },
      (_, i) => `${map.deviceOffset(i)} ${toHex(map.digest(i) ?? new Uint8Array())}`,
    );
  });
  return { chunks, tar };
}

for (const { name, command = [] } of otherRuntimes()) {
  describe.skipIf(!isBuilt || command.length === 0)(`the bundle under ${name}`, () => {
    test("converts to the same tree and the same chunks as the executable", async () => {
      expect(await convertAndUnpack(command, join(dir, name))).toEqual(wanted);
    });

    test("inspects and checks what it has converted, and what nydusify has", async () => {
      const image = `oci:${join(dir, name, "image")}:x`;
      const report = await run(...command, "--root", join(dir, "state"), "inspect", "--json", image);
      expect((JSON.parse(report.stdout) as { names: number }).names).toBeGreaterThan(1000);
      for (const [checked, flags] of [
        [image, ["--against", SOURCE]],
        [`${IMAGES}:nydus`, []],
      ] as const) {
        const check = await run(...command, "--root", join(dir, "state"), "check", checked, ...flags);
        expect([check.status, check.stderr]).toEqual([0, ""]);
        expect(check.stdout).toContain(": 0 problems");
      }
    });

    test("reads what the executable has converted, and the other way round", async () => {
      const own = `oci:${join(dir, name, "image")}:x`;
      expect(await nydusOk("--root", join(dir, "state-bun"), "check", own, "--against", SOURCE)).toContain(
        "0 differences",
      );
      const other = `oci:${join(dir, "bun", "image")}:x`;
      const check = await run(...command, "--root", join(dir, "state-other"), "check", other);
      expect([check.status, check.stderr]).toEqual([0, ""]);
    });

    test("says that a tar is the only way to unpack", async () => {
      const { status, stderr } = await run(...command, "unpack", `oci:${join(dir, name, "image")}:x`, join(dir, "no"));
      expect(status).toBe(6);
      expect(stderr).toContain("use '-' for a tar");
    });
  });
}
