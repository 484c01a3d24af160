import { describe, expect, test } from "bun:test";
import type { Digest } from "../../../../src/base/digest.ts";
import type { Descriptor, Platform } from "../../../../src/format/oci/manifest.ts";
import { ANNOTATION, MEDIA_TYPE, NYDUS_OS_FEATURE } from "../../../../src/format/oci/media-type.ts";
import {
  formatPlatform,
  hostPlatform,
  isAttestation,
  isNydusManifest,
  listPlatforms,
  matchesPlatform,
  parsePlatform,
  selectPlatform,
} from "../../../../src/format/oci/platform.ts";

function of(platform?: string | Platform, more: Partial<Descriptor> = {}): Descriptor {
  const parsed = typeof platform === "string" ? raw(platform) : platform;
  return {
    mediaType: MEDIA_TYPE.ociManifest,
    digest: `sha256:${"0".repeat(64)}` as Digest,
    size: 1,
    ...(parsed === undefined ? {} : { platform: parsed }),
    ...more,
  };
}

function raw(text: string): Platform {
  const [os = "", architecture = "", variant] = text.split("/");
  return { os, architecture, ...(variant === undefined ? {} : { variant }) };
}

describe("platforms", () => {
  test.each([
    ["linux/amd64", "linux/amd64"],
    ["Linux/X86_64", "linux/amd64"],
    ["linux/amd64/v1", "linux/amd64"],
    ["linux/amd64/v3", "linux/amd64/v3"],
    ["aarch64", "linux/arm64"],
    ["linux/arm64/v8", "linux/arm64"],
    ["linux/arm64/8", "linux/arm64"],
    ["linux/arm64/v9", "linux/arm64/v9"],
    ["arm", "linux/arm/v7"],
    ["linux/arm/6", "linux/arm/v6"],
    ["armhf", "linux/arm/v7"],
    ["armel", "linux/arm/v6"],
    ["i386", "linux/386"],
    ["macos/arm64", "darwin/arm64"],
    ["s390x", "linux/s390x"],
  ])("%s is %s", (text, wanted) => {
    expect(formatPlatform(parsePlatform(text))).toBe(wanted);
  });

  test.each(["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "linux/amd64\n"])("refuses %j", (text) => {
    expect(() => parsePlatform(text)).toThrow("os/arch");
  });

  test.each([
    ["x64", "linux/amd64"],
    ["arm64", "linux/arm64"],
    ["arm", "linux/arm/v7"],
    ["ia32", "linux/386"],
    ["riscv64", "linux/riscv64"],
  ])("a runtime on %s runs %s", (arch, wanted) => {
    expect(formatPlatform(hostPlatform(arch))).toBe(wanted);
  });

  test("written differently they still match", () => {
    expect(matchesPlatform(raw("linux/arm64/v8"), raw("linux/aarch64"))).toBe(true);
    expect(matchesPlatform(raw("linux/arm64"), raw("linux/arm"))).toBe(false);
  });
});

describe("selectPlatform()", () => {
  const attestation = of(raw("unknown/unknown"), {
    annotations: { [ANNOTATION.dockerReferenceType]: "attestation-manifest" },
  });

  test("takes the manifest of the platform, whatever its place, never an attestation", () => {
    const arm = of("linux/arm64/v8");
    const index = [of("linux/amd64"), attestation, arm];
    expect(selectPlatform(index, parsePlatform("arm64"))).toBe(arm);
    expect([...index, of(raw("unknown/unknown"))].map(isAttestation)).toEqual([false, true, false, true]);
  });

  test("falls back to lower variants of the same architecture, the highest first, never to another", () => {
    const [v5, v6, v8] = [of("linux/arm/v5"), of("linux/arm/v6"), of("linux/arm/v8")];
    expect(selectPlatform([v5, v6, v8], parsePlatform("linux/arm/v7"))).toBe(v6);
    const v2 = of("linux/amd64/v2");
    expect(selectPlatform([of("linux/amd64"), v2], parsePlatform("linux/amd64/v3"))).toBe(v2);
    const plain = of("linux/arm64");
    expect(selectPlatform([plain], parsePlatform("linux/arm64/v9.1"))).toBe(plain);
    expect(() => selectPlatform([of("linux/386")], parsePlatform("linux/amd64"))).toThrow("there are linux/386");
    expect(() => selectPlatform([v8], parsePlatform("linux/arm64"))).toThrow("linux/arm/v8");
  });

  test("says which platforms there are", () => {
    const index = [of("linux/amd64"), attestation, of("linux/arm/v7"), of("linux/amd64")];
    expect(listPlatforms(index)).toEqual(["linux/amd64", "linux/arm/v7"]);
    expect(() => selectPlatform(index, parsePlatform("linux/s390x"))).toThrow(
      "Cannot find platform linux/s390x in the image: there are linux/amd64, linux/arm/v7",
    );
    expect(() => selectPlatform([], parsePlatform("linux/s390x"))).toThrow("there are none");
  });

  test("takes an only manifest that names no platform", () => {
    const only = of();
    expect(selectPlatform([only, attestation], parsePlatform("linux/arm64"))).toBe(only);
    expect(() => selectPlatform([only, of()], parsePlatform("linux/arm64"))).toThrow();
  });

  test("of a merged index prefers what is asked for", () => {
    const oci = of("linux/amd64");
    const nydus = of("linux/amd64", { artifactType: MEDIA_TYPE.nydusManifestArtifact });
    const old = of({ ...raw("linux/amd64"), "os.features": [NYDUS_OS_FEATURE] });
    expect([oci, nydus, old].map(isNydusManifest)).toEqual([false, true, true]);
    expect(selectPlatform([nydus, oci], parsePlatform("amd64"), (descriptor) => !isNydusManifest(descriptor))).toBe(
      oci,
    );
    expect(selectPlatform([oci, nydus], parsePlatform("amd64"), isNydusManifest)).toBe(nydus);
    expect(selectPlatform([oci], parsePlatform("amd64"), isNydusManifest)).toBe(oci);
  });
});
