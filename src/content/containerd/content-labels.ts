import type { Digest } from "../../base/digest.ts";
import { inPlace } from "../../base/errors.ts";
import { CONTENT_SERVICE } from "../../format/containerd/content-schema.ts";
import type { LabelFields } from "../../format/containerd/labels.ts";
import type { Containerd } from "./connection.ts";

/** The labels of a blob. @throws ENOENT no such blob */
export async function labelsOf(containerd: Containerd, digest: Digest, signal?: AbortSignal): Promise<LabelFields> {
  const { info } = await inPlace({ digest }, () => containerd.call(CONTENT_SERVICE, "Info", { digest }, { signal }));
  return (info?.labels ?? {}) as LabelFields;
}

/** Gives a blob labels; those that it has under other keys stay. @throws ENOENT no such blob */
export async function addLabels(
  containerd: Containerd,
  digest: Digest,
  labels: LabelFields,
  signal?: AbortSignal,
): Promise<void> {
  const paths = Object.keys(labels).map((key) => `labels.${key}`);
  if (paths.length === 0) return;
  const request = { info: { digest, labels }, updateMask: { paths } };
  await inPlace({ digest }, () => containerd.call(CONTENT_SERVICE, "Update", request, { signal }));
}
