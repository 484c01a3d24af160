import { NydusError } from "../../base/errors.ts";
import { formatReference, parseReference } from "../../format/oci/reference.ts";
import { formatImageName, type ImageName, parseImageName } from "../../format/oci/transport.ts";
import { openDockerArchive } from "./docker-archive.ts";
import { openArchiveSource, openArchiveTarget } from "./oci-archive.ts";
import { openLayoutSource, openLayoutTarget } from "./oci-layout.ts";
import type { ImageSource, ImageTarget, StoreContext } from "./store.ts";

// Half of the program's time to start is in the HTTP and gRPC that only these two transports need.
const registrySource = () => import("../registry/registry-source.ts");
const registryTarget = () => import("../registry/registry-target.ts");
const containerdSource = () => import("../containerd/containerd-source.ts");
const containerdTarget = () => import("../containerd/containerd-target.ts");

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
    case "oci-archive":
      return await openArchiveSource(image.path, image, shown, context);
    case "docker-archive":
      return await openDockerArchive(image.path, image, shown, context);
    case "docker":
      return (await registrySource()).openRegistrySource(image.reference, shown, context);
    case "containerd":
      return (await containerdSource()).openContainerdSource(image.reference, shown, context);
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
      return await openLayoutTarget(image.path, image.reference, shown);
    case "oci-archive":
      return await openArchiveTarget(image.path, image.reference, shown);
    case "docker-archive":
      throw new NydusError("ENOTSUP", `Cannot write image ${shown}: docker-archive is read only; oci-archive is not`);
    case "docker":
      return (await registryTarget()).openRegistryTarget(image.reference, shown, context);
    case "containerd":
      return (await containerdTarget()).openContainerdTarget(
        formatReference(parseReference(image.reference)),
        shown,
        context,
      );
  }
}
