import type { ArgsDef } from "citty";
import { NydusError } from "../base/errors.ts";
import { DEFAULT_PULL, PULL_POLICIES, type PullPolicy } from "../content/local/open-image-source.ts";
import { type OpenedImage, openBootstrap, openImage } from "../operation/image/open.ts";
import type { CodecPool } from "../os/codec-pool.ts";
import { openCodecPool } from "../os/codec-threads.ts";
import type { CliContext } from "./command.ts";
import { type ContainerdArguments, containerdPlace } from "./containerd-args.ts";
import { REGISTRY_ARGS, type RegistryArguments, registryOptions } from "./registry-args.ts";
import { parseChoice, platformOf } from "./values.ts";

/** The flag of commands that look for an image in the store first. */
export const PULL_ARGS = {
  pull: {
    type: "enum",
    options: [...PULL_POLICIES],
    default: DEFAULT_PULL,
    description: "Ask the registry what a name means",
  },
} as const satisfies ArgsDef;

/** Flags of commands that read an image: it has a name, or it is a bootstrap and a directory of blobs. */
export const IMAGE_ARGS = {
  bootstrap: { type: "string", valueHint: "FILE", description: "Bootstrap to open in the place of IMAGE" },
  "blob-dir": { type: "string", valueHint: "DIR", description: "Directory of its blobs, named by their digests" },
  platform: { type: "string", valueHint: "OS/ARCH", description: "Image of an index (default this machine's)" },
  ...PULL_ARGS,
  ...REGISTRY_ARGS,
} as const satisfies ArgsDef;

/** The usage lines of a command that takes an image by its name or by its parts. @param words what follows it */
export function bothUsages(words: string): readonly string[] {
  return [`IMAGE ${words}`, `--bootstrap FILE --blob-dir DIR ${words}`];
}

/** What {@link IMAGE_ARGS} and the positionals give. */
export interface ImageArguments extends RegistryArguments, ContainerdArguments {
  readonly bootstrap?: string | undefined;
  readonly "blob-dir"?: string | undefined;
  readonly platform?: string | undefined;
  readonly pull?: string | undefined;
}

/** An image that is read by its name, or by its parts. */
export type ImageChoice = { readonly name: string } | { readonly bootstrapPath: string; readonly blobDir: string };

/**
 * The image that the arguments mean, and the positionals that are left.
 * @param positionals the command's, IMAGE first; with --bootstrap there is no IMAGE among them
 * @throws EINVAL neither, or a positional too many
 */
export function chooseImage(
  args: ImageArguments,
  positionals: readonly (string | undefined)[],
): { readonly image: ImageChoice; readonly rest: readonly string[] } {
  const words = positionals.filter((word) => word !== undefined);
  const { bootstrap, "blob-dir": blobDir } = args;
  if ((bootstrap === undefined) !== (blobDir === undefined)) {
    throw new NydusError("EINVAL", "Flags --bootstrap and --blob-dir go together");
  }
  if (bootstrap !== undefined && blobDir !== undefined) {
    // The IMAGE that is not given leaves a place that nothing may take.
    const extra = words[positionals.length - 1];
    if (extra !== undefined) throw new NydusError("EINVAL", `Unexpected argument ${JSON.stringify(extra)}`);
    return { image: { bootstrapPath: bootstrap, blobDir }, rest: words };
  }
  const [name, ...rest] = words;
  if (name === undefined) throw new NydusError("EINVAL", "Missing argument IMAGE, or --bootstrap and --blob-dir");
  return { image: { name }, rest };
}

/** The policy of a `--pull` flag. @throws EINVAL */
export function pullOf(text: string | undefined): PullPolicy {
  return text === undefined ? DEFAULT_PULL : parseChoice("pull", text, PULL_POLICIES);
}

/** An image and the threads that decode it. */
export interface ImageSession {
  readonly image: OpenedImage;
  readonly pool: CodecPool;
}

/** Opens an image for `use` and closes it again, whatever happens. */
export async function withImage<T>(
  choice: ImageChoice,
  args: ImageArguments,
  context: CliContext,
  use: (session: ImageSession) => Promise<T>,
): Promise<T> {
  await using pool = openCodecPool();
  await using image = await openChosen(choice, args, context);
  return await use({ image, pool });
}

/** Opens an image by its name or its parts; the caller closes it. */
export function openChosen(
  choice: ImageChoice,
  args: ImageArguments,
  { root, signal }: CliContext,
): Promise<OpenedImage> {
  if ("name" in choice) {
    const wanted = { platform: platformOf(args.platform), pull: pullOf(args.pull), registry: registryOptions(args) };
    return openImage(choice.name, { root, signal, containerd: containerdPlace(args), ...wanted });
  }
  return openBootstrap(choice.bootstrapPath, { blobDir: choice.blobDir });
}
