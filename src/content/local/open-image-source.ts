import { NydusError } from "../../base/errors.ts";
import { formatImageName, type ImageName, parseImageName } from "../../format/oci/transport.ts";
import { openSource } from "../store/open-store.ts";
import type { ImageSource, StoreContext } from "../store/store.ts";
import { findRecord, type ImageRecord } from "./image-records.ts";
import { type StorePaths, storePaths } from "./paths.ts";
import { StoreFirstSource } from "./store-first-source.ts";

/**
 * Whether an image is looked for elsewhere than in the store: `missing` where the store does not know its name,
 * `always` to learn anew what a registry's name means, `never`, not even for data that a lazily pulled image lacks.
 */
export type PullPolicy = (typeof PULL_POLICIES)[number];

/** As a command line takes them. */
export const PULL_POLICIES = ["missing", "always", "never"] as const;

/** The policy of those who have none: what is in the store is used, all else read where it is. */
export const DEFAULT_PULL: PullPolicy = "missing";

/**
 * Opens an image to read it: from the store where that has a registry's name, else from the place that its name says;
 * nothing is put into the store. Blobs that the store has are read from there in any case. Directories and archives
 * are read themselves, unless the policy is `never`.
 * @throws as `openSource`; ENOENT not in the store with `never`; EUCLEAN a damaged store
 */
export async function openImageSource(
  text: string,
  context: StoreContext,
  pull: PullPolicy = DEFAULT_PULL,
): Promise<ImageSource> {
  const image = parseImageName(text);
  const name = formatImageName(image);
  const paths = storePaths(context.root);
  if (pull === "never") return await openFromStore(paths, text, name);
  if (image.transport !== "docker") return await openSource(image, context);
  const record = pull === "always" ? undefined : await findRecord(paths, text);
  const from = record === undefined ? image : originOf(record);
  return new StoreFirstSource({ paths, name, record, openOther: () => openSource(from, context) });
}

async function openFromStore(paths: StorePaths, text: string, name: string): Promise<ImageSource> {
  const record = await findRecord(paths, text);
  if (record !== undefined) return new StoreFirstSource({ paths, name, record });
  throw new NydusError("ENOENT", `Cannot open image ${name}: it is not in the image store; 'nydus pull' brings it`);
}

/** Where the image was pulled from: its data is there by digest, whatever the tag means now. */
function originOf(record: ImageRecord): ImageName {
  return parseImageName(record.from);
}
