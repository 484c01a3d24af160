import { PULL_POLICIES, type PullPolicy } from "../../content/local/open-image-source.ts";
import type { RegistryOptions } from "../../content/registry/registry-options.ts";
import { parsePlatform } from "../../format/oci/platform.ts";
import { parseReference } from "../../format/oci/reference.ts";
import type { ImageRequest } from "../../operation/image/mount-source.ts";
import type { BlobPlace } from "../../operation/image/open-places.ts";
import { absolute, bad, objectOf, text } from "./body-fields.ts";

const SHA256 = /^[0-9a-f]{64}$/;
/** Places of one image; more than two make little sense. */
const PLACES_MAX = 8;

/** How a registry is reached, in a request. */
export interface RegistryBody {
  /** Absolute. */
  readonly caFile?: string | undefined;
  readonly plainHttp?: boolean | undefined;
}

/** A place that may have the blobs of an image, in a request. */
export type BlobPlaceBody =
  | { readonly containerd: { readonly address: string; readonly namespace: string } }
  /** The repository of an image name, whatever its tag or digest. */
  | { readonly registry: RegistryBody & { readonly reference: string } };

/** What is to be mounted. Paths are absolute. */
export type ImageBody =
  | {
      readonly name: string;
      readonly platform?: string | undefined;
      readonly pull?: PullPolicy | undefined;
      readonly registry?: RegistryBody;
    }
  | { readonly bootstrap: string; readonly blobDir: string }
  /** The directory that a bootstrap layer was unpacked into, and places of the blobs, in the order to ask them in. */
  | {
      readonly bootstrapDir: string;
      /** Of the bootstrap when it was unpacked: 64 hex digits. */
      readonly sha256?: string | undefined;
      readonly blobs: readonly BlobPlaceBody[];
    };

/** @throws EINVAL naming the field */
export function parseImage(value: unknown): ImageRequest {
  if (typeof value === "object" && value !== null && "bootstrap" in value) {
    const image = objectOf(value, "image", ["bootstrap", "blobDir"]);
    return {
      bootstrapPath: absolute(image["bootstrap"], "image.bootstrap"),
      blobDir: absolute(image["blobDir"], "image.blobDir"),
    };
  }
  if (typeof value === "object" && value !== null && "bootstrapDir" in value) return parseBootstrapDir(value);
  const { name, platform, pull, registry } = objectOf(value, "image", ["name", "platform", "pull", "registry"]);
  return {
    name: text(name, "image.name"),
    ...(pull === undefined ? {} : { pull: pullOf(pull) }),
    ...(registry === undefined ? {} : { registry: registryOf(registry, "image.registry") }),
    ...(platform === undefined ? {} : { platform: parsePlatform(text(platform, "image.platform")) }),
  };
}

function parseBootstrapDir(value: object): ImageRequest {
  const { bootstrapDir, sha256, blobs } = objectOf(value, "image", ["bootstrapDir", "sha256", "blobs"]);
  if (sha256 !== undefined && (typeof sha256 !== "string" || !SHA256.test(sha256))) {
    throw bad("image.sha256", "64 hex digits");
  }
  if (!Array.isArray(blobs) || blobs.length > PLACES_MAX) throw bad("image.blobs", `at most ${PLACES_MAX} places`);
  return {
    bootstrapDir: absolute(bootstrapDir, "image.bootstrapDir"),
    ...(sha256 === undefined ? {} : { sha256 }),
    places: blobs.map((place: unknown, i) => parsePlace(place, `image.blobs[${i}]`)),
  };
}

function parsePlace(value: unknown, field: string): BlobPlace {
  const place = objectOf(value, field, ["containerd", "registry"]);
  if (Object.keys(place).length !== 1) throw bad(field, "containerd or registry");
  if (place["registry"] !== undefined) return parseRegistryPlace(place["registry"], `${field}.registry`);
  const containerd = objectOf(place["containerd"], `${field}.containerd`, ["address", "namespace"]);
  const address = absolute(containerd["address"], `${field}.containerd.address`);
  const namespace = text(containerd["namespace"], `${field}.containerd.namespace`);
  return { containerd: { address, namespace } };
}

function parseRegistryPlace(value: unknown, field: string): BlobPlace {
  const { reference, ...rest } = objectOf(value, field, ["reference", "caFile", "plainHttp"]);
  return {
    registry: { reference: parseReference(text(reference, `${field}.reference`)), options: registryOf(rest, field) },
  };
}

function registryOf(value: unknown, field: string): RegistryOptions {
  const { caFile, plainHttp } = objectOf(value, field, ["caFile", "plainHttp"]);
  if (plainHttp !== undefined && typeof plainHttp !== "boolean") throw bad(`${field}.plainHttp`, "true or false");
  return {
    ...(caFile === undefined ? {} : { caFile: absolute(caFile, `${field}.caFile`) }),
    ...(plainHttp === undefined ? {} : { plainHttp }),
  };
}

function pullOf(value: unknown): PullPolicy {
  const policy = PULL_POLICIES.find((one) => one === value);
  if (policy === undefined) throw bad("image.pull", `one of ${PULL_POLICIES.join(", ")}`);
  return policy;
}
