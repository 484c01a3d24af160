import { readFile } from "node:fs/promises";
import { digestOfSum } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { openSocketSource } from "../../content/http/socket-source.ts";
import { openBlobOfDir } from "../../content/store/blob-dir.ts";
import { Closers } from "../../content/store/closers.ts";
import { openFileSource } from "../../content/store/file-source.ts";
import type { ByteSource } from "../../content/store/source.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { BLOB_META_HEADER_BYTES, encodeBlobMetaFile } from "../../format/rafs/blob-meta.ts";
import { type BlobInfo, needsBlobMeta } from "../../format/rafs/blob-table.ts";
import type { RafsImage } from "../../format/rafs/image.ts";
import { openArtifact } from "../../operation/build/artifact.ts";
import { openBootstrapFile } from "../../operation/build/bootstrap-file.ts";
import type { BlobReader } from "../../operation/image/unit-batches.ts";
import { unpackLayerToTar } from "../../operation/image/unpack-layer.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import { printStderr } from "../output.ts";
import { bootstrapArgument } from "./arguments.ts";
import type { ImageCommand, ImageContext } from "./command.ts";
import { COMMON_OPTIONS, type Parsed, textOf } from "./option.ts";
import { releasePipes } from "./release-pipes.ts";

type OpenBlob = (id: string) => Promise<ByteSource>;

/** `nydus-image unpack` */
export const unpackCommand: ImageCommand = {
  shape: {
    name: "nydus-image unpack",
    about: "Unpack a RAFS filesystem to a tar file; of a layer's, what it says of the layers below is in it",
    positional: { name: "BOOTSTRAP", help: "Bootstrap, or blob with one inside" },
    options: [
      { long: "bootstrap", short: "B", help: "The bootstrap, in the place of the argument" },
      {
        long: "backend-type",
        help: "Where blobs are: http-proxy",
        choices: ["localfs", "http-proxy", "oss", "s3", "registry"],
      },
      { long: "backend-config", help: 'As JSON: {"addr": SOCKET}' },
      { long: "backend-config-file", help: "File with the same" },
      { long: "blob", short: "b", help: "The blob" },
      { long: "blob-dir", short: "D", help: "Directory of blobs, named by their ids" },
      { long: "config", short: "C", help: "Taken for compatibility, and not read" },
      { long: "output", isRequired: true, help: "File or pipe for the tar" },
      ...COMMON_OPTIONS,
    ],
  },
  async run(parsed, context) {
    try {
      await unpack(parsed, context);
    } catch (error) {
      releasePipes([textOf(parsed, "output")]);
      throw error;
    }
  },
};

async function unpack(parsed: Parsed, { signal, codecs }: ImageContext): Promise<void> {
  const loaded = await codecs();
  const rafs = await openBootstrapFile(bootstrapArgument(parsed), loaded);
  await using stack = new Closers();
  const blobs = await openBlobs(rafs, await blobOpener(parsed, rafs), { codecs: loaded, stack });
  const pool = stack.use(openCodecPool());
  const sink = stack.use(await openArtifact({ path: textOf(parsed, "output") ?? "" }));
  const onSkipped = (path: string, reason: string): void => printStderr(`skipped ${path}: ${reason}\n`);
  const hasher = loaded.sha256();
  let sizeBytes = 0;
  for await (const bytes of unpackLayerToTar({ rafs, blobs }, { pool, signal, onSkipped })) {
    hasher.update(bytes);
    sizeBytes += bytes.length;
    await sink.write(bytes);
  }
  await sink.commit(digestOfSum(hasher.digest()), sizeBytes);
}

async function openBlobs(
  rafs: RafsImage,
  open: OpenBlob,
  { codecs, stack }: { readonly codecs: Codecs; readonly stack: Closers },
): Promise<BlobReader[]> {
  const readers: BlobReader[] = [];
  for (const blob of rafs.blobs) {
    const source = await open(blob.id);
    stack.defer(() => source.close());
    const meta = needsBlobMeta(blob) ? await readMeta(blob, source, codecs) : undefined;
    readers.push({ digest: blob.id, chunks: rafs.chunkMap(blob.index, meta), source });
  }
  return readers;
}

/** The meta of a whole blob, which tells where its batches are. */
async function readMeta(blob: BlobInfo, source: ByteSource, codecs: Codecs): Promise<Uint8Array> {
  const end = blob.ciOffset + blob.ciCompressedBytes + BLOB_META_HEADER_BYTES;
  if (end > source.sizeBytes) {
    throw new NydusError("ENOTSUP", "Cannot unpack: the blob has batches, and the file does not hold its meta");
  }
  const bytes = await source.readAt({ start: blob.ciOffset, end });
  const ci = codecs.decompress(blob.ciCompressor, bytes.subarray(0, blob.ciCompressedBytes), blob.ciBytes);
  return encodeBlobMetaFile(ci, bytes.subarray(blob.ciCompressedBytes));
}

/** How the arguments say that blobs are found. @throws EINVAL not at all; ENOTSUP a backend that is not known here */
async function blobOpener(parsed: Parsed, rafs: RafsImage): Promise<OpenBlob> {
  const [file, dir, type] = ["blob", "blob-dir", "backend-type"].map((long) => textOf(parsed, long));
  if (file !== undefined) {
    if (rafs.blobs.length <= 1) return () => openFileSource(file);
    throw new NydusError("EINVAL", `Cannot unpack: ${rafs.blobs.length} blobs and one --blob; give --blob-dir`);
  }
  if (type === "http-proxy") {
    const address = await proxyAddress(parsed);
    return (id) => openSocketSource(address, id);
  }
  if (type !== undefined && type !== "localfs") {
    throw new NydusError("ENOTSUP", `Cannot unpack: backends of type ${type} are not supported`);
  }
  if (dir !== undefined) return (id) => openBlobOfDir(dir, id);
  if (rafs.blobs.length === 0) return () => Promise.reject(new NydusError("EFAULT", "Cannot unpack: there is no blob"));
  throw new NydusError("EINVAL", "Cannot unpack: --blob, --blob-dir or --backend-type must be given");
}

/** The socket of a proxy by the backend's configuration. @throws EINVAL none */
async function proxyAddress(parsed: Parsed): Promise<string> {
  const path = textOf(parsed, "backend-config-file");
  try {
    const text = path === undefined ? (textOf(parsed, "backend-config") ?? "") : await readFile(path, "utf8");
    const { addr } = JSON.parse(text) as { addr?: unknown };
    if (typeof addr === "string" && addr.startsWith("/")) return addr;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw asNydusError(error);
  }
  throw new NydusError("EINVAL", 'Cannot unpack: the backend\'s configuration is not {"addr": "/a/unix/socket"}');
}
