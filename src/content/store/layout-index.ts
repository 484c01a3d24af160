import { NydusError } from "../../base/errors.ts";
import { type JsonObject, JsonReader } from "../../format/oci/json.ts";
import { type Descriptor, MAX_MANIFESTS, parseIndex } from "../../format/oci/manifest.ts";
import { ANNOTATION } from "../../format/oci/media-type.ts";

/** Which image of a layout: by its name, by its place in index.json (0-based), or the only one. */
export interface LayoutChoice {
  readonly reference?: string | undefined;
  readonly index?: number | undefined;
}

/** The content of a layout's `oci-layout` file (image-spec, image-layout.md). */
export const LAYOUT_MARKER = '{"imageLayoutVersion":"1.0.0"}';

/** Names that an error lists, at most. */
const LISTED_NAMES = 32;

const READ = new JsonReader("index.json");

/**
 * The entry of a layout's index.json that is meant. Entries that are not meant may hold anything.
 * @param name of the layout, for messages
 * @throws ENOENT no such entry, or several and none named: with the names that there are; EUCLEAN malformed
 */
export function chooseEntry(bytes: Uint8Array, choice: LayoutChoice, name: string): Descriptor {
  const entries = entriesOf(READ.parse(bytes));
  const found = findEntry(entries, choice);
  if (found === undefined) throw noEntry(entries, choice, name);
  const alone = new TextEncoder().encode(JSON.stringify({ schemaVersion: 2, manifests: [found] }));
  return parseIndex(alone).manifests[0] as Descriptor;
}

/** The images of an index.json, in its order; containerd's name of an image goes before the layout's own. */
export function listEntries(bytes: Uint8Array): readonly { readonly name: string | undefined }[] {
  return entriesOf(READ.parse(bytes)).map((entry) => ({
    name: annotationOf(entry, ANNOTATION.containerdImageName) ?? annotationOf(entry, ANNOTATION.refName),
  }));
}

function entriesOf(top: JsonObject): readonly JsonObject[] {
  return READ.array(top["manifests"], "manifests", MAX_MANIFESTS).map((entry, i) =>
    READ.object(entry, `manifests[${i}]`),
  );
}

function findEntry(entries: readonly JsonObject[], choice: LayoutChoice): JsonObject | undefined {
  const { reference, index } = choice;
  if (index !== undefined) return entries[index];
  if (reference === undefined) return entries.length === 1 ? entries[0] : undefined;
  const named = (key: string): JsonObject | undefined =>
    entries.find((entry) => annotationOf(entry, key) === reference);
  return named(ANNOTATION.refName) ?? named(ANNOTATION.containerdImageName);
}

function annotationOf(entry: JsonObject, key: string): string | undefined {
  const annotations = entry["annotations"];
  if (typeof annotations !== "object" || annotations === null) return undefined;
  const value = (annotations as Readonly<Record<string, unknown>>)[key];
  return typeof value === "string" ? value : undefined;
}

function noEntry(entries: readonly JsonObject[], choice: LayoutChoice, name: string): NydusError {
  const names = entries.map((entry, i) => annotationOf(entry, ANNOTATION.refName) ?? `@${i}`);
  const more = names.length > LISTED_NAMES ? `, and ${names.length - LISTED_NAMES} more` : "";
  const there = names.length === 0 ? "no image" : `${names.slice(0, LISTED_NAMES).join(", ")}${more}`;
  const wanted = choice.index === undefined ? choice.reference : `@${choice.index}`;
  const what = wanted === undefined ? "one image wanted, or name one" : `no image ${JSON.stringify(wanted)}`;
  return new NydusError("ENOENT", `Cannot open image ${name}: ${what}; there is ${there}`);
}

/**
 * index.json with one image put in: it takes the place of the entry of its name; every other entry stays as it was.
 * @param bytes of the index.json so far, if there is one
 * @param reference its name; without one an equal nameless entry is kept once
 * @throws EUCLEAN malformed
 */
export function putEntry(bytes: Uint8Array | undefined, descriptor: Descriptor, reference?: string): Uint8Array {
  const top: JsonObject = bytes === undefined ? { schemaVersion: 2, manifests: [] } : READ.parse(bytes);
  const entries = entriesOf(top);
  const isReplaced = (entry: JsonObject): boolean => {
    const name = annotationOf(entry, ANNOTATION.refName);
    return reference === undefined ? name === undefined && entry["digest"] === descriptor.digest : name === reference;
  };
  const annotations = {
    ...descriptor.annotations,
    ...(reference === undefined ? {} : { [ANNOTATION.refName]: reference }),
  };
  const { mediaType, digest, size, platform, artifactType } = descriptor;
  const entry = {
    mediaType,
    digest,
    size,
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
    ...(platform === undefined ? {} : { platform }),
    ...(artifactType === undefined ? {} : { artifactType }),
  };
  const kept = entries.filter((old) => !isReplaced(old));
  return new TextEncoder().encode(JSON.stringify({ ...top, manifests: [...kept, entry] }));
}
