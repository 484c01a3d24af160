import { expect, test } from "bun:test";
import { NydusError } from "../../src/base/errors.ts";
import { parseConfig, patchConfig } from "../../src/format/oci/config.ts";
import {
  parseManifest,
  parseManifestOrIndex,
  serializeIndex,
  serializeManifest,
} from "../../src/format/oci/manifest.ts";
import { parsePlatform, selectPlatform } from "../../src/format/oci/platform.ts";
import { formatReference, parseReference } from "../../src/format/oci/reference.ts";
import { formatImageName, parseImageName } from "../../src/format/oci/transport.ts";
import { smallGolden } from "../kit/golden.ts";
import { goldenBlob, goldenImage } from "../kit/golden-layers.ts";
import { mutate, Random } from "../kit/random.ts";

const ROUNDS = 20_000;

/** Runs `attempt` on `ROUNDS` mutations of `seeds`; only a NydusError may leave it. */
function hammer(seeds: readonly Uint8Array[], attempt: (bytes: Uint8Array) => void): void {
  let refused = 0;
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const random = new Random(seed);
    const bytes = mutate(random.pick(seeds), random);
    try {
      attempt(bytes);
    } catch (error) {
      if (!(error instanceof NydusError)) throw new Error(`seed ${seed}`, { cause: error });
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(ROUNDS / 10);
  expect(refused).toBeLessThan(ROUNDS);
}

const images = ["oci", "docker", "nydus"].map((ref) => goldenBlob(smallGolden(), goldenImage(smallGolden(), ref)));

test("mutated manifests and indexes parse and come back the same, or are refused on purpose", () => {
  const index = new TextEncoder().encode(
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        { ...goldenImage(smallGolden(), "oci"), platform: { os: "linux", architecture: "arm", variant: "v7" } },
      ],
    }),
  );
  hammer([...images, index], (bytes) => {
    const parsed = parseManifestOrIndex(bytes);
    if (parsed.kind === "index") {
      expect(parseManifestOrIndex(serializeIndex(parsed.index))).toEqual(parsed);
      selectPlatform(parsed.index.manifests, parsePlatform("linux/arm/v8"));
    } else expect(parseManifestOrIndex(serializeManifest(parsed.manifest))).toEqual(parsed);
  });
});

test("mutated configs are patched to what was asked, or refused on purpose", () => {
  const configs = images.map((bytes) => goldenBlob(smallGolden(), parseManifest(bytes).config));
  hammer(configs, (bytes) => {
    const { diffIds } = parseConfig(bytes);
    const patched = parseConfig(patchConfig(bytes, { diffIds: diffIds.slice(1), history: [{ comment: "x" }] }));
    expect(patched.diffIds).toEqual(diffIds.slice(1));
    expect(patched.history).toEqual([{ comment: "x" }]);
  });
});

test("mutated names and platforms mean what they print, or are refused on purpose", () => {
  const names = [
    "docker://h.io:5000/a/b:tag",
    "oci:/dir:ref",
    "docker-archive:x:a/b:1",
    `a@sha256:${"a".repeat(64)}`,
    "linux/arm64/v8",
  ];
  hammer(
    names.map((name) => new TextEncoder().encode(name)),
    (bytes) => {
      const text = new TextDecoder().decode(bytes);
      if (text.startsWith("linux")) parsePlatform(text);
      const name = parseImageName(text);
      expect(parseImageName(formatImageName(name))).toEqual(name);
      if (name.transport === "docker") expect(parseReference(formatReference(name.reference))).toEqual(name.reference);
    },
  );
});
