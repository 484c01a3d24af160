import { NydusError } from "../../base/errors.ts";
import { formatImageName, type ImageName, parseImageName } from "../../format/oci/transport.ts";
import { openLayoutSource, openLayoutTarget } from "./oci-layout.ts";
import type { ImageSource, ImageTarget } from "./store.ts";

/** What stores need besides the image's name. */
export interface StoreContext {
  /** Directory of all state; temporary files go under it. */
  readonly root: string;
  /** Ends what is under way. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens an image to read it, whichever transport its name has.
 * @throws EINVAL a name that is none; ENOTSUP another transport; ENOENT, EIO, EUCLEAN as the store has it
 */
export async function openSource(name: string | ImageName, context: StoreContext): Promise<ImageSource> {
  const image = typeof name === "string" ? parseImageName(name) : name;
  const shown = formatImageName(image);
  switch (image.transport) {
    case "oci":
      return openLayoutSource(image.path, image, shown);
    default:
      throw new NydusError("ENOTSUP", `Cannot open image ${shown}: its transport is not supported yet ${context.root}`);
  }
}

/**
 * Opens a place to write an image to.
 * @throws as {@link openSource}; ENOTSUP a transport that is read only
 */
export async function openTarget(name: string | ImageName, context: StoreContext): Promise<ImageTarget> {
  const image = typeof name === "string" ? parseImageName(name) : name;
  const shown = formatImageName(image);
  if ("index" in image && image.index !== undefined) {
    throw new NydusError("EINVAL", `Cannot write image ${shown}: @N names one that is there; give it a name`);
  }
  switch (image.transport) {
    case "oci":
      return openLayoutTarget(image.path, image.reference, shown);
    default:
      throw new NydusError(
        "ENOTSUP",
        `Cannot write image ${shown}: its transport is not supported yet ${context.root}`,
      );
  }
}
