import { concatBytes } from "../../base/bytes.ts";
import type { Digest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { type JsonObject, JsonReader, MAX_DOCUMENT_BYTES, memberSpans } from "./json.ts";
import { defined, MAX_LAYERS, type Platform } from "./manifest.ts";

/** One step of an image's history (image-spec, config.md); members that the specification lacks are kept. */
export interface HistoryEntry {
  readonly created?: string;
  readonly created_by?: string;
  readonly author?: string;
  readonly comment?: string;
  /** Whether the step made no layer. */
  readonly empty_layer?: boolean;
  readonly [other: string]: unknown;
}

/** What this program needs of an image's config; the rest stays in its bytes. */
export interface ImageConfig {
  readonly platform: Platform;
  readonly created?: string;
  /** Digests of the uncompressed layers, the bottom one first. */
  readonly diffIds: readonly Digest[];
  /** Undefined where the config has no such member. */
  readonly history?: readonly HistoryEntry[];
}

const MAX_HISTORY = 8192;

/** The members that {@link patchConfig} replaces. */
const PATCHED = ["rootfs", "history"] as const;

/**
 * Parses an image config, OCI or Docker.
 * @throws EUCLEAN malformed; ENOTSUP a digest other than SHA-256
 */
export function parseConfig(bytes: Uint8Array): ImageConfig {
  const read = new JsonReader("config");
  const top = read.parse(bytes);
  refuseOtherCase(bytes, read);
  const rootfs = read.object(top["rootfs"], "rootfs");
  const type = rootfs["type"];
  if (type !== undefined && type !== "layers") throw read.bad("rootfs.type", type, '"layers"');
  const ids = rootfs["diff_ids"];
  const diffIds = ids === null || ids === undefined ? [] : read.array(ids, "rootfs.diff_ids", MAX_LAYERS);
  return {
    platform: readConfigPlatform(top, read),
    diffIds: diffIds.map((id, i) => read.digest(id, `rootfs.diff_ids[${i}]`)),
    ...defined({
      created: read.optionalString(top["created"], "created"),
      history: readHistory(top["history"], read),
    }),
  };
}

/** Go takes members by their name in any case, so "RootFS" would be a second rootfs to some and nothing to others. */
function refuseOtherCase(bytes: Uint8Array, read: JsonReader): void {
  for (const { key } of memberSpans(bytes).members) {
    const name = PATCHED.find((patched) => patched !== key && patched === key.toLowerCase());
    if (name !== undefined) throw read.bad("a member", key, JSON.stringify(name));
  }
}

function readConfigPlatform(top: JsonObject, read: JsonReader): Platform {
  return {
    os: read.optionalString(top["os"], "os") ?? "",
    architecture: read.optionalString(top["architecture"], "architecture") ?? "",
    ...defined({
      variant: read.optionalString(top["variant"], "variant"),
      "os.version": read.optionalString(top["os.version"], "os.version"),
      "os.features": read.optionalStrings(top["os.features"], "os.features", MAX_HISTORY),
    }),
  };
}

function readHistory(value: unknown, read: JsonReader): readonly HistoryEntry[] | undefined {
  if (value === undefined || value === null) return undefined;
  return read.array(value, "history", MAX_HISTORY).map((item, i) => {
    const entry = read.object(item, `history[${i}]`);
    const empty = entry["empty_layer"];
    if (empty !== undefined && typeof empty !== "boolean")
      throw read.bad(`history[${i}].empty_layer`, empty, "a boolean");
    return entry as HistoryEntry;
  });
}

/** The layers of a config after a conversion. */
export interface ConfigPatch {
  readonly diffIds: readonly Digest[];
  /** The whole history: the old entries as {@link parseConfig} gave them, and the new ones. */
  readonly history: readonly HistoryEntry[];
}

/**
 * A config with other layers: only the values of the top members `rootfs` and `history` are replaced in the text (each
 * of them where one occurs twice; one that is missing is put last). Every other byte stays, numbers and escapes too.
 * @throws EUCLEAN as {@link parseConfig}
 */
export function patchConfig(bytes: Uint8Array, patch: ConfigPatch): Uint8Array {
  parseConfig(bytes);
  const values: Record<string, unknown> = {
    rootfs: { type: "layers", diff_ids: patch.diffIds },
    history: patch.history,
  };
  const { members, close } = memberSpans(bytes);
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const { key, start, end } of members) {
    if (!(PATCHED as readonly string[]).includes(key)) continue;
    pieces.push(bytes.subarray(at, start), encode(JSON.stringify(values[key])));
    at = end;
  }
  const missing = PATCHED.filter((name) => members.every(({ key }) => key !== name));
  const last = Math.max(at, members.at(-1)?.end ?? close);
  pieces.push(bytes.subarray(at, last));
  for (const name of missing) pieces.push(encode(`,${JSON.stringify(name)}:${JSON.stringify(values[name])}`));
  pieces.push(bytes.subarray(last));
  const patched = concatBytes(pieces);
  if (patched.length > MAX_DOCUMENT_BYTES) {
    throw new NydusError(
      "EUCLEAN",
      `Cannot patch config: ${patched.length} bytes, at most ${MAX_DOCUMENT_BYTES} wanted`,
    );
  }
  return patched;
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
