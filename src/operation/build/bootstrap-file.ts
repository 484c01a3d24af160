import { equalBytes } from "../../base/bytes.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import { openFileSource } from "../../content/store/file-source.ts";
import type { ByteSource } from "../../content/store/source.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { decodeTarHeader, decodeToc, TAR_HEADER_BYTES, TOC_NAMES, type TocEntry } from "../../format/rafs/blob-toc.ts";
import { openRafs, type RafsImage } from "../../format/rafs/image.ts";
import { bootstrapKind } from "../../format/rafs/superblock.ts";
import { BOOTSTRAP_LIMITS } from "../image/bootstrap-store.ts";

/** Bytes at a file's head that tell what it is, and at a blob's end that hold its table of contents. */
const HEAD_BYTES = 4096;
const TAIL_BYTES = 4096;

/**
 * The bootstrap in a file: the file is one, or a blob that has one in it.
 * @throws ENOENT; EUCLEAN neither, or damaged; EIO
 */
export async function readBootstrapFile(path: string, codecs: Codecs): Promise<Uint8Array> {
  const source = await openFileSource(path);
  try {
    return await inPlace({ path }, () => readBootstrap(source, codecs));
  } finally {
    await source.close();
  }
}

/** Opens the bootstrap in a file. @throws as {@link readBootstrapFile}; ENOTSUP another RAFS version */
export async function openBootstrapFile(path: string, codecs: Codecs): Promise<RafsImage> {
  const bytes = await readBootstrapFile(path, codecs);
  return inPlace({ path }, () => openRafs(bytes));
}

async function readBootstrap(source: ByteSource, codecs: Codecs): Promise<Uint8Array> {
  const head = await source.readAt({ start: 0, end: Math.min(HEAD_BYTES, source.sizeBytes) });
  if (bootstrapKind(head) !== "unknown") {
    checkSize(source.sizeBytes);
    return source.readAt({ start: 0, end: source.sizeBytes });
  }
  const tail = await source.readAt({ start: Math.max(0, source.sizeBytes - TAIL_BYTES), end: source.sizeBytes });
  const inside = bootstrapInside(tail, source.sizeBytes);
  if (inside === undefined)
    throw new NydusError("EUCLEAN", "Cannot open bootstrap: the file is none, and has none in it");
  checkSize(Math.max(inside.sizeBytes, inside.compressedBytes));
  const { compressor, offset, compressedBytes, sizeBytes, digest } = inside;
  const stored = await source.readAt({ start: offset, end: offset + compressedBytes });
  const bytes = compressor === "none" ? stored : codecs.decompress(compressor, stored, sizeBytes);
  if (digest.length > 0 && !equalBytes(codecs.digest("sha256", bytes), digest)) {
    throw new NydusError("EBADMSG", "Cannot open bootstrap: another digest than the table of contents has", { offset });
  }
  return bytes;
}

/** Where the bootstrap lies in a blob; without a table of contents it is the last thing in it. */
function bootstrapInside(tail: Uint8Array, blobBytes: number): TocEntry | undefined {
  const toc = decodeToc(tail, blobBytes);
  if (toc !== undefined) return toc.entries.find(({ name }) => name === TOC_NAMES.bootstrap);
  const header = tail.length < TAR_HEADER_BYTES ? undefined : decodeTarHeader(tail.subarray(-TAR_HEADER_BYTES));
  const offset = blobBytes - TAR_HEADER_BYTES - (header?.sizeBytes ?? 0);
  if (header?.name !== TOC_NAMES.bootstrap || offset < 0) return undefined;
  const { name, sizeBytes } = header;
  return { name, compressor: "none", offset, compressedBytes: sizeBytes, sizeBytes, digest: new Uint8Array(0) };
}

function checkSize(sizeBytes: number): void {
  if (sizeBytes <= BOOTSTRAP_LIMITS.bootstrapBytes) return;
  throw new NydusError("EUCLEAN", `Cannot open bootstrap: ${sizeBytes} bytes are too many`);
}
