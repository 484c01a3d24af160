import { isDigest } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { IMAGES_SERVICE } from "../../format/containerd/images-schema.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { formatReference, parseReference } from "../../format/oci/reference.ts";
import type { Message } from "../../os/grpc.ts";
import type { Containerd } from "./connection.ts";

/** An image's name in containerd, and what it names. */
export interface ContainerdImage {
  readonly name: string;
  /** The top manifest or index. */
  readonly target: Descriptor;
}

/**
 * The image that a user means: one of exactly this name, else, as nerdctl has it, of the full name that `alpine` is
 * short for.
 * @throws ENOENT no such image
 */
export async function findImage(containerd: Containerd, text: string, signal?: AbortSignal): Promise<ContainerdImage> {
  const full = fullName(text);
  for (const name of full === undefined || full === text ? [text] : [text, full]) {
    const image = await getImage(containerd, name, signal);
    if (image !== undefined) return image;
  }
  const { namespace } = containerd.place;
  const shown = JSON.stringify(full ?? text);
  const message = `Cannot open image: containerd's namespace ${namespace} has no image ${shown}`;
  throw new NydusError("ENOENT", `${message}; --namespace names another namespace`);
}

/** `docker.io/library/alpine:latest` of `alpine`. @returns undefined of what is no reference */
function fullName(text: string): string | undefined {
  try {
    return formatReference(parseReference(text));
  } catch {
    return undefined; // the image may have any name
  }
}

async function getImage(
  containerd: Containerd,
  name: string,
  signal?: AbortSignal,
): Promise<ContainerdImage | undefined> {
  try {
    const { image } = await containerd.call(IMAGES_SERVICE, "Get", { name }, { signal });
    return decodeImage(image as Message);
  } catch (error) {
    const known = asNydusError(error);
    // A name that containerd would never take names nothing.
    if (known.code === "ENOENT" || known.code === "EINVAL") return undefined;
    throw known;
  }
}

function decodeImage({ name, target }: Message): ContainerdImage {
  const { mediaType, digest, size } = target as Message;
  if (typeof digest !== "string" || !isDigest(digest)) {
    throw new NydusError("ENOTSUP", `Cannot open image ${JSON.stringify(name)}: its digest is not of SHA-256`);
  }
  return { name: String(name), target: { mediaType: String(mediaType), digest, size: Number(size) } };
}

/** Gives an image its name, taking it from what has it; labels of an image that is there stay. */
export async function putImage(
  containerd: Containerd,
  { name, target }: ContainerdImage,
  signal?: AbortSignal,
): Promise<void> {
  const { mediaType, digest, size } = target;
  const image = { name, target: { mediaType, digest, size } };
  // Between the two calls another client may take the image away.
  for (let tries = 0; ; tries++) {
    try {
      await containerd.call(IMAGES_SERVICE, "Create", { image }, { signal });
      return;
    } catch (error) {
      if (asNydusError(error).code !== "EEXIST") throw error;
    }
    try {
      await containerd.call(IMAGES_SERVICE, "Update", { image, updateMask: { paths: ["target"] } }, { signal });
      return;
    } catch (error) {
      if (asNydusError(error).code !== "ENOENT" || tries > 0) throw error;
    }
  }
}
