import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { keyOfBytes } from "../../base/bytes.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import {
  decodeNumber,
  fieldOf,
  isZeroBlock,
  malformedTar,
  TAR_BLOCK,
  UstarHeader,
  untilNul,
  verifyChecksum,
} from "../../format/tar/header.ts";
import { cleanPath } from "../../format/tar/path.ts";
import { decodePax, MAX_PAX_BYTES, type PaxRecords, paxNumber, paxPath } from "../../format/tar/pax.ts";
import { paddingOf } from "../../format/tar/window.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { throwIfAborted } from "./abort.ts";
import { closeFile, fileSize, openFile, readFully } from "./file-io.ts";
import { FileSource, openFileSource } from "./file-source.ts";
import type { ByteSource } from "./source.ts";
import { StagedFile } from "./staged-file.ts";
import type { StoreContext } from "./store.ts";

/** Most entries of an image archive: three a layer, and a few. */
const MAX_ENTRIES = 100_000;
/** Symlinks and hard links followed, at most. */
const MAX_LINKS = 8;

/** An archive's entry: content in the file, or another name. */
type ArchiveEntry = { readonly start: number; readonly sizeBytes: number } | { readonly target: string };

/** A tar file whose entries are read in place. Names are cleaned as `cleanPath` does. */
export class TarArchive implements AsyncDisposable {
  readonly path: string;
  readonly #fd: number;
  readonly #entries: ReadonlyMap<string, ArchiveEntry>;
  readonly #close: () => Promise<void>;

  private constructor(file: OpenTar, entries: ReadonlyMap<string, ArchiveEntry>) {
    this.path = file.path;
    this.#fd = file.fd;
    this.#close = file.close;
    this.#entries = entries;
  }

  /**
   * Opens an archive and indexes it by its headers, without reading what is between. One that is compressed (gzip,
   * zstd) is decompressed into a temporary file first, which goes with it.
   * @throws ENOENT; EUCLEAN no tar; ENOSPC
   */
  static async open(path: string, context: StoreContext): Promise<TarArchive> {
    const file = await openPlain(path, context);
    try {
      const entries = await inPlace({ path }, () => indexTar(file, context.signal));
      return new TarArchive({ ...file, path }, entries);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * An entry's content; links inside the archive are followed.
   * @returns undefined when there is no such file
   */
  open(name: string): ByteSource | undefined {
    let entry = this.#entries.get(name);
    for (let links = 0; entry !== undefined && "target" in entry; links++) {
      if (links >= MAX_LINKS) return undefined;
      entry = this.#entries.get(entry.target);
    }
    if (entry === undefined || "target" in entry) return undefined;
    return new FileSource({ ...entry, fd: this.#fd, path: this.path, release: async () => undefined });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

interface OpenTar {
  readonly fd: number;
  readonly path: string;
  readonly close: () => Promise<void>;
}

const COMPRESSED = [
  { format: "gzip", magic: [0x1f, 0x8b] },
  { format: "zstd", magic: [0x28, 0xb5, 0x2f, 0xfd] },
] as const;

/** How bytes are compressed, by their first four. */
export function sniffFormat(head: Uint8Array): "none" | "gzip" | "zstd" {
  return COMPRESSED.find(({ magic }) => magic.every((byte, i) => head[i] === byte))?.format ?? "none";
}

async function openPlain(path: string, context: StoreContext): Promise<OpenTar> {
  const fd = await openFile(path, "r");
  try {
    const head = await readFully(fd, { start: 0, end: Math.min(4, await fileSize(fd, path)) }, path);
    const format = sniffFormat(head);
    if (format === "none") return { fd, path, close: () => closeFile(fd) };
    const plain = await inPlace({ path }, () => decompressed(path, format, context));
    await closeFile(fd);
    return plain;
  } catch (error) {
    await closeFile(fd);
    throw error;
  }
}

async function decompressed(path: string, format: "gzip" | "zstd", context: StoreContext): Promise<OpenTar> {
  const temp = await stageIn(context.root);
  try {
    const source = await openFileSource(path);
    try {
      const codecs = await loadCodecs();
      for await (const piece of codecs.decompressStream(format, source.stream(context.signal))) await temp.write(piece);
    } finally {
      await source.close();
    }
    return { fd: temp.fd, path: temp.path, close: () => temp[Symbol.asyncDispose]() };
  } catch (error) {
    await temp[Symbol.asyncDispose]();
    throw error;
  }
}

/** A temporary file of the state directory. */
export async function stageIn(root: string): Promise<StagedFile> {
  const dir = join(root, "tmp");
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw asNydusError(error, { path: dir });
  }
  return await StagedFile.create(dir);
}

/** What extended headers say of the entry to come. */
interface Extension {
  readonly records: PaxRecords;
  longName?: Uint8Array;
  longLink?: Uint8Array;
}

async function indexTar(file: OpenTar, signal: AbortSignal | undefined): Promise<Map<string, ArchiveEntry>> {
  const entries = new Map<string, ArchiveEntry>();
  const total = await fileSize(file.fd, file.path);
  let extension: Extension = { records: new Map() };
  let count = 0;
  for (let offset = 0; offset + TAR_BLOCK <= total; ) {
    throwIfAborted(signal);
    const block = await readFully(file.fd, { start: offset, end: offset + TAR_BLOCK }, file.path);
    if (isZeroBlock(block)) break;
    if (++count > MAX_ENTRIES) throw malformedTar(`it has more than ${MAX_ENTRIES} entries`, offset);
    const header = readHeader(block, offset, extension.records);
    const bodyEnd = header.start + header.sizeBytes;
    if (bodyEnd > total) throw malformedTar(`it ends within an entry, ${bodyEnd - total} bytes early`, offset);
    if (EXTENSIONS.includes(header.typeflag)) {
      await readExtension(file, header, extension);
    } else {
      putEntry(entries, { ...header, block }, extension);
      extension = { records: new Map() };
    }
    offset = bodyEnd + paddingOf(header.sizeBytes);
  }
  if (count === 0) throw malformedTar("it has no entry", 0);
  return entries;
}

/** pax for the next entry, GNU long name, GNU long link. */
const EXTENSIONS = "xLK";
const FILE_TYPES = ["0", "\0", "7"];
const [SYMLINK, HARD_LINK] = ["2", "1"];

interface Header {
  readonly offset: number;
  readonly typeflag: string;
  /** Of the body, in the archive. */
  readonly start: number;
  readonly sizeBytes: number;
}

function readHeader(block: Uint8Array, offset: number, records: PaxRecords): Header {
  verifyChecksum(block, offset);
  const typeflag = String.fromCharCode(block[UstarHeader.at.typeflag] as number);
  const isExtension = EXTENSIONS.includes(typeflag);
  const declared = isExtension ? undefined : paxNumber(records, "size", offset);
  const sizeBytes = declared ?? decodeNumber(fieldOf(block, "size"), "size", offset);
  if (sizeBytes < 0) throw malformedTar(`size ${sizeBytes} is negative`, offset);
  const hasBody = typeflag !== SYMLINK && typeflag !== HARD_LINK;
  return { offset, typeflag, start: offset + TAR_BLOCK, sizeBytes: hasBody ? sizeBytes : 0 };
}

async function readExtension(file: OpenTar, header: Header, extension: Extension): Promise<void> {
  const { offset, start, sizeBytes, typeflag } = header;
  if (sizeBytes > MAX_PAX_BYTES) throw malformedTar(`an extended header has ${sizeBytes} bytes`, offset);
  const body = await readFully(file.fd, { start, end: start + sizeBytes }, file.path);
  if (typeflag === "x") decodePax(body, offset, extension.records);
  else if (typeflag === "L") extension.longName = untilNul(body);
  else extension.longLink = untilNul(body);
}

function putEntry(
  entries: Map<string, ArchiveEntry>,
  header: Header & { readonly block: Uint8Array },
  { records, longName, longLink }: Extension,
): void {
  const { block, offset, typeflag, start, sizeBytes } = header;
  const raw = longName ?? paxPath(records, "path", offset) ?? headerName(block);
  const name = keyOfBytes(cleanPath(raw, offset));
  if (FILE_TYPES.includes(typeflag)) {
    entries.set(name, { start, sizeBytes });
    return;
  }
  const link = longLink ?? paxPath(records, "linkpath", offset) ?? untilNul(fieldOf(block, "linkname"));
  if (typeflag === HARD_LINK) entries.set(name, { target: keyOfBytes(cleanPath(link, offset)) });
  const target = typeflag === SYMLINK ? symlinkTarget(name, keyOfBytes(link)) : undefined;
  if (target !== undefined) entries.set(name, { target });
}

function headerName(block: Uint8Array): Uint8Array {
  const name = untilNul(fieldOf(block, "name"));
  const isUstar = keyOfBytes(block.subarray(UstarHeader.at.magic, UstarHeader.at.magic + 6)) === "ustar\0";
  const prefix = isUstar ? untilNul(fieldOf(block, "prefix")) : new Uint8Array(0);
  return prefix.length === 0 ? name : Uint8Array.from([...prefix, 0x2f, ...name]);
}

/** Where a symlink leads within the archive; undefined when it leaves it. */
function symlinkTarget(name: string, link: string): string | undefined {
  if (link.startsWith("/")) return undefined;
  const parts = name.split("/").slice(0, -1);
  for (const part of link.split("/")) {
    if (part === ".." && parts.pop() === undefined) return undefined;
    if (part !== "" && part !== "." && part !== "..") parts.push(part);
  }
  return parts.join("/");
}

/** A small entry's bytes. @throws ENOENT not there; EUCLEAN above `limitBytes` */
export async function readEntry(archive: TarArchive, name: string, limitBytes: number): Promise<Uint8Array> {
  const source = archive.open(name);
  const place = { path: archive.path };
  if (source === undefined) {
    throw new NydusError("ENOENT", `Cannot read archive: it has no ${JSON.stringify(name.slice(0, 200))}`, place);
  }
  if (source.sizeBytes > limitBytes) {
    const found = `${JSON.stringify(name.slice(0, 200))} has ${source.sizeBytes} bytes, at most ${limitBytes} wanted`;
    throw new NydusError("EUCLEAN", `Cannot read archive: ${found}`, place);
  }
  return await source.readAt({ start: 0, end: source.sizeBytes });
}
