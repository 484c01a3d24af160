import type { Digest } from "../../base/digest.ts";
import { openSource, openTarget } from "../../content/store/open-store.ts";
import type { StoreContext } from "../../content/store/store.ts";
import type { Platform } from "../../format/oci/manifest.ts";
import { parseImageName } from "../../format/oci/transport.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { type Preparation, preparedPlatform, prepareTarget, type SnapshotterChoice } from "./containerd-prepare.ts";
import { type CopiedLayer, copyImage } from "./copy.ts";
import type { ImageProgress } from "./progress.ts";

/** A copy as a user asks for it. */
export interface CopyRequest extends StoreContext {
  /** Names as containers-transports(5) has them, or `containerd:NAME`. */
  readonly source: string;
  readonly target: string;
  /** Of an index. */
  readonly platforms: readonly [Platform, ...Platform[]] | "all";
  /** In containerd: what to prepare the image for; undefined: it is only stored. */
  readonly prepare?: SnapshotterChoice | undefined;
  readonly progress?: ImageProgress | undefined;
  readonly signal: AbortSignal;
}

/** What a copy has made. */
export interface CopySummary {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly blobs: readonly CopiedLayer[];
  /** Of a copy into containerd. */
  readonly prepared?: Preparation;
}

/**
 * Copies an image as it is from any place to any other, every blob verified. Containerd keeps an index as it is even if
 * some of its platforms are not there, as its own pull does; elsewhere one platform's manifest is copied by itself.
 * @throws as the stores and `copyImage`; EINVAL several platforms, and not all, where they cannot be kept
 */
export async function copyBetween(request: CopyRequest): Promise<CopySummary> {
  const { signal, platforms, progress } = request;
  const from = parseImageName(request.source);
  const to = parseImageName(request.target);
  await using source = await openSource(from, request);
  await using target = await openTarget(to, {
    ...request,
    ...(from.transport === "docker" && { origin: from.reference }),
  });
  const codecs = await loadCodecs();
  const keepsIndex = to.transport === "containerd";
  const made = await copyImage({ source, target, codecs, signal }, { platforms, lazy: false, keepsIndex, progress });
  const prepared = await prepareTarget(target, request.prepare && { ...request.prepare, ...context(request) });
  const { digest, mediaType } = made.root;
  return { digest, mediaType, blobs: made.blobs, ...(prepared && { prepared }) };
}

function context({ platforms, signal, progress }: CopyRequest): {
  readonly platform: Platform;
  readonly signal: AbortSignal;
  readonly progress: ImageProgress | undefined;
} {
  return { platform: preparedPlatform(platforms), signal, progress };
}
