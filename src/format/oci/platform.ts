import { NydusError } from "../../base/errors.ts";
import { type Descriptor, defined, type Platform } from "./manifest.ts";
import { ANNOTATION, MEDIA_TYPE, NYDUS_OS_FEATURE } from "./media-type.ts";

/** Go's names of the architectures that Node names otherwise. */
const GO_ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: "amd64",
  ia32: "386",
  ppc64: "ppc64le",
};

/** The platform whose images this machine runs: Linux of the runtime's architecture (`process.arch`). */
export function hostPlatform(arch: string): Platform {
  return normalizePlatform({ os: "linux", architecture: GO_ARCHITECTURES[arch] ?? arch });
}

/** Other names of an architecture, and the variant that they stand for. */
const ALIASES: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  i386: ["386", ""],
  x86_64: ["amd64"],
  "x86-64": ["amd64"],
  aarch64: ["arm64"],
  armhf: ["arm", "v7"],
  armel: ["arm", "v6"],
};

/** Variants that are the architecture itself, or are written otherwise. */
const VARIANTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  amd64: { v1: "" },
  arm64: { "8": "", v8: "" },
  arm: { "": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8" },
};

/** A platform in containerd's canonical form: lower case, aliases resolved, default variants dropped (arm's: v7). */
export function normalizePlatform(platform: Platform): Platform {
  const os = platform.os.toLowerCase();
  const given = platform.architecture.toLowerCase();
  const [architecture, fixed] = ALIASES[given] ?? [given];
  const written = fixed ?? (platform.variant ?? "").toLowerCase();
  const variant = VARIANTS[architecture]?.[written] ?? written;
  return {
    ...platform,
    os: os === "macos" ? "darwin" : os,
    architecture,
    ...{ variant: undefined },
    ...defined({ variant: variant === "" ? undefined : variant }),
  } as Platform;
}

const KNOWN_SYSTEMS = ["linux", "windows", "darwin", "macos", "freebsd", "android", "wasip1"];

/**
 * A platform as `--platform` takes it: `os/architecture[/variant]`, or an architecture alone for Linux.
 * @throws EINVAL another form
 */
export function parsePlatform(text: string): Platform {
  const parts = text.split("/");
  const isClean = parts.every((part) => /^[A-Za-z0-9_.-]{1,64}$/.test(part));
  const [first, second, third] = parts;
  if (!isClean || parts.length > 3 || first === undefined || (second === undefined && KNOWN_SYSTEMS.includes(first))) {
    throw new NydusError(
      "EINVAL",
      `Cannot parse platform ${JSON.stringify(text.slice(0, 80))}: os/arch[/variant] wanted`,
    );
  }
  if (second === undefined) return normalizePlatform({ os: "linux", architecture: first });
  return normalizePlatform({ os: first, architecture: second, ...defined({ variant: third }) });
}

/** `os/architecture[/variant]`. */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform;
  return [os, architecture, variant].filter((part) => part !== undefined && part !== "").join("/");
}

/** Whether two platforms are the same in canonical form: system, architecture and variant. */
export function matchesPlatform(a: Platform, b: Platform): boolean {
  return formatPlatform(normalizePlatform(a)) === formatPlatform(normalizePlatform(b));
}

/** Whether a manifest of an index is BuildKit's attestation about another one, not an image. */
export function isAttestation(descriptor: Descriptor): boolean {
  if (descriptor.annotations?.[ANNOTATION.dockerReferenceType] !== undefined) return true;
  return descriptor.platform?.os === "unknown" && descriptor.platform.architecture === "unknown";
}

/** Whether a manifest of a merged index says of itself that it is a Nydus image. */
export function isNydusManifest(descriptor: Descriptor): boolean {
  if (descriptor.artifactType === MEDIA_TYPE.nydusManifestArtifact) return true;
  return descriptor.platform?.["os.features"]?.includes(NYDUS_OS_FEATURE) === true;
}

/** The platforms of an index's images, in its order, each once. */
export function listPlatforms(manifests: readonly Descriptor[]): readonly string[] {
  const images = manifests.filter((descriptor) => !isAttestation(descriptor));
  return [...new Set(images.map(({ platform }) => (platform === undefined ? "unknown" : formatPlatform(platform))))];
}

/**
 * The manifest of an index for a platform. The same variant first, then, as containerd does, the next lower ones of
 * the same architecture; another architecture never. An index's only image is taken where it names no platform.
 * @param prefer among manifests of one platform (a merged index has an OCI and a Nydus one), those to be taken first
 * @throws ENOENT with the platforms that there are
 */
export function selectPlatform(
  manifests: readonly Descriptor[],
  wanted: Platform,
  prefer: (descriptor: Descriptor) => boolean = () => true,
): Descriptor {
  const images = manifests.filter((descriptor) => !isAttestation(descriptor));
  const ordered = [...images.filter(prefer), ...images.filter((descriptor) => !prefer(descriptor))];
  for (const candidate of lowerVariants(normalizePlatform(wanted))) {
    const found = ordered.find(({ platform }) => platform !== undefined && matchesPlatform(platform, candidate));
    if (found !== undefined) return found;
  }
  const [only] = images;
  if (only !== undefined && images.length === 1 && only.platform === undefined) return only;
  const there = listPlatforms(manifests).slice(0, 64).join(", ") || "none";
  throw new NydusError("ENOENT", `Cannot find platform ${formatPlatform(wanted)} in the image: there are ${there}`);
}

/** The platform, then the lower variants of its architecture that run on it (containerd/platforms, Only). */
function lowerVariants(platform: Platform): readonly Platform[] {
  const { architecture, variant } = platform;
  const match = /^v(\d{1,2})(?:\.(\d))?$/.exec(variant ?? (architecture === "arm64" ? "v8" : ""));
  if (match === null) return [platform];
  const major = Number(match[1]);
  const minor = Number(match[2] ?? 0);
  const names: string[] = [];
  if (architecture === "amd64") for (let v = major - 1; v >= 1; v--) names.push(`v${v}`);
  if (architecture === "arm") for (let v = major - 1; v >= 5; v--) names.push(`v${v}`);
  if (architecture === "arm64" && major >= 8) names.push(...lowerArm64(major, minor));
  return [platform, ...names.map((name) => normalizePlatform({ ...platform, variant: name }))];
}

/** v9.x runs what v9.0 to v9.x-1 and v8.0 to v8.x+5 are for. */
function lowerArm64(major: number, minor: number): readonly string[] {
  const name = (of: number, m: number): string => (m === 0 ? `v${of}` : `v${of}.${m}`);
  const names: string[] = [];
  for (let m = minor - 1; m >= 0; m--) names.push(name(major, m));
  if (major === 9) for (let m = minor + 5; m >= 0; m--) names.push(name(8, m));
  return names;
}
