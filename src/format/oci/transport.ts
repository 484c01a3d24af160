import { NydusError } from "../../base/errors.ts";
import { formatReference, parseReference, type Reference } from "./reference.ts";

/** An image of an OCI layout: a directory, or a tar of one. */
export interface LayoutName {
  readonly transport: "oci" | "oci-archive";
  readonly path: string;
  /** The `org.opencontainers.image.ref.name` annotation; undefined: the only image there is. */
  readonly reference?: string;
  /** `@N`: the N-th entry of index.json, 0-based. */
  readonly index?: number;
}

/** An image in a file that `docker save` wrote. */
export interface DockerArchiveName {
  readonly transport: "docker-archive";
  readonly path: string;
  /** One of the image's RepoTags, normalised; undefined: the only image there is. */
  readonly reference?: Reference;
  /** `@N`: the N-th image of manifest.json, 0-based. */
  readonly index?: number;
}

/** An image in a registry. */
export interface RegistryName {
  readonly transport: "docker";
  readonly reference: Reference;
}

/** An image of containerd's. */
export interface ContainerdName {
  readonly transport: "containerd";
  /** Any name that an image there may have, in full or as nerdctl takes it. */
  readonly reference: string;
}

/** Where an image is, as a user names it. */
export type ImageName = LayoutName | DockerArchiveName | RegistryName | ContainerdName;

/** Transports of containers-transports(5) and of peers that this program does not have. */
const UNSUPPORTED = ["containers-storage", "docker-daemon", "dir", "ostree", "sif", "tarball"];

/** Longest name of an image of containerd's. */
const MAX_CONTAINERD_NAME = 1024;

/** Prefixes of names of the registry transport. `docker:` alone is the image of that name. */
const REGISTRY_PREFIXES = ["docker://", "registry://"];

/**
 * An image name as containers-transports(5) has them: `oci:DIR[:REF]`, `oci-archive:FILE[:REF]`,
 * `docker-archive:FILE[:REF]`, `docker://HOST/REPO[:TAG][@DIGEST]`, or without prefix a registry's; also
 * `containerd:NAME`, an image of containerd's.
 * As in skopeo a path ends at its first colon, so a path with a colon cannot be named; `@N` in the place of REF is the
 * N-th image, from 0.
 * @throws EINVAL another syntax; ENOTSUP a transport that is not here
 */
export function parseImageName(text: string): ImageName {
  for (const prefix of REGISTRY_PREFIXES) {
    if (text.startsWith(prefix)) return { transport: "docker", reference: parseReference(text.slice(prefix.length)) };
  }
  const colon = text.indexOf(":");
  const transport = colon < 0 ? "" : text.slice(0, colon);
  const details = text.slice(colon + 1);
  if (transport === "oci" || transport === "oci-archive") return parseLayout(transport, details, text);
  if (transport === "docker-archive") return parseDockerArchive(details, text);
  if (transport === "containerd") return parseContainerd(details, text);
  if (UNSUPPORTED.includes(transport)) {
    const hint = "oci:, oci-archive:, docker-archive:, containerd: and docker:// are";
    throw new NydusError("ENOTSUP", `Cannot open image: transport ${transport}: is not supported, ${hint}`);
  }
  return { transport: "docker", reference: parseReference(text) };
}

/** Path, and what follows its first colon; an empty rest is none. */
function splitPath(details: string, text: string): { path: string; rest?: string } {
  const colon = details.indexOf(":");
  const path = colon < 0 ? details : details.slice(0, colon);
  const rest = colon < 0 ? "" : details.slice(colon + 1);
  if (path === "" || path.includes("\0")) throw badName(text, "the path is empty or holds a NUL");
  return rest === "" ? { path } : { path, rest };
}

function parseLayout(transport: "oci" | "oci-archive", details: string, text: string): LayoutName {
  const { path, rest } = splitPath(details, text);
  if (rest === undefined) return { transport, path };
  if (rest.startsWith("@")) return { transport, path, index: parseIndexNumber(rest, text) };
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (/[\x00-\x20\x7f]/.test(rest)) throw badName(text, "the reference holds a space or control character");
  return { transport, path, reference: rest };
}

function parseDockerArchive(details: string, text: string): DockerArchiveName {
  const transport = "docker-archive";
  const { path, rest } = splitPath(details, text);
  if (rest === undefined) return { transport, path };
  if (rest.startsWith("@")) return { transport, path, index: parseIndexNumber(rest, text) };
  const reference = parseReference(rest);
  if (reference.digest !== undefined) throw badName(text, "a docker-archive reference must not have a digest");
  return { transport, path, reference };
}

function parseContainerd(details: string, text: string): ContainerdName {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (details === "" || /[\x00-\x20\x7f]/.test(details)) {
    throw badName(text, "the name is empty, or holds a space or control character");
  }
  if (details.length > MAX_CONTAINERD_NAME) throw badName(text, "it is too long");
  return { transport: "containerd", reference: details };
}

function parseIndexNumber(rest: string, text: string): number {
  if (!/^@\d{1,6}$/.test(rest)) throw badName(text, "after @ goes the number of an image, from 0");
  return Number(rest.slice(1));
}

function badName(text: string, why: string): NydusError {
  return new NydusError("EINVAL", `Cannot parse image name ${JSON.stringify(text.slice(0, 200))}: ${why}`);
}

/** The name as a user would write it; parses back to the same. */
export function formatImageName(name: ImageName): string {
  if (name.transport === "docker") return `docker://${formatReference(name.reference)}`;
  if (name.transport === "containerd") return `containerd:${name.reference}`;
  const reference = typeof name.reference === "object" ? formatReference(name.reference) : name.reference;
  const rest = name.index === undefined ? reference : `@${name.index}`;
  return `${name.transport}:${name.path}${rest === undefined ? "" : `:${rest}`}`;
}
