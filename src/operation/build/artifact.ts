import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { type Digest, hexOf } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { closeFile, openFile } from "../../content/store/file-io.ts";
import { StagedFile } from "../../content/store/staged-file.ts";
import type { BlobSink } from "../../content/store/store.ts";

/** Bytes of one read of a pipe: what Linux has in it at most, unless told otherwise. */
const PIPE_BYTES = 64 << 10;
const READ_BYTES = 1 << 20;

/** Where something that is built goes: to a file or a pipe, or into a directory under the digest of its bytes. */
export type Artifact = { readonly path: string } | { readonly dir: string };

/**
 * Opens the place of an artifact. A pipe is opened for good and waits for its reader; a file appears when it is complete.
 * @throws ENOENT, EPERM, EIO
 */
export async function openArtifact(artifact: Artifact): Promise<BlobSink> {
  if ("dir" in artifact) {
    const file = await StagedFile.create(artifact.dir);
    return stagedSink(file, (digest) => join(artifact.dir, hexOf(digest)));
  }
  const { path } = artifact;
  if (await isSpecial(path)) return pipeSink(await openFile(path, "w"), path);
  return stagedSink(await StagedFile.create(dirname(path)), () => path);
}

/** Whether a path is there and no regular file: a pipe, /dev/stdout. @throws EINVAL a directory */
async function isSpecial(path: string): Promise<boolean> {
  try {
    const stat = await fs.promises.stat(path);
    if (stat.isDirectory()) throw new NydusError("EINVAL", "Cannot write: it is a directory", { path });
    return !stat.isFile();
  } catch (error) {
    const failure = asNydusError(error, { path });
    if (failure.code === "ENOENT") return false;
    throw failure;
  }
}

function stagedSink(file: StagedFile, nameOf: (digest: Digest) => string): BlobSink {
  return {
    write: (data) => file.write(data),
    commit: (digest) => file.placeAs(nameOf(digest)),
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  };
}

function pipeSink(fd: number, path: string): BlobSink {
  return {
    async write(data) {
      for (let at = 0; at < data.length; ) at += await writeOnce(fd, data.subarray(at), path);
    },
    async commit() {
      // whoever reads has it all
    },
    [Symbol.asyncDispose]: () => closeFile(fd),
  };
}

function writeOnce(fd: number, data: Uint8Array, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.write(fd, data, 0, data.length, null, (error, written) =>
      error ? reject(asNydusError(error, { path })) : resolve(written),
    );
  });
}

/** Something to be read from front to back. */
export interface InputStream extends AsyncDisposable {
  readonly bytes: AsyncIterable<Uint8Array>;
}

/**
 * Opens a file or a pipe, whose writer is waited for, to be read once from front to back.
 * @throws ENOENT, EPERM, EIO; EINVAL a directory
 */
export async function openInput(path: string): Promise<InputStream> {
  const isPipe = await isSpecial(path);
  const fd = await openFile(path, "r");
  let isOpen = true;
  const close = async (): Promise<void> => {
    if (!isOpen) return;
    isOpen = false;
    // A read that waits for the writer must not hold back whoever has had enough.
    const closing = closeFile(fd);
    if (!isPipe) await closing;
  };
  return { bytes: readPieces(fd, path, isPipe ? PIPE_BYTES : READ_BYTES), [Symbol.asyncDispose]: close };
}

/** Reads one piece ahead; every piece has memory of its own. */
async function* readPieces(fd: number, path: string, pieceBytes: number): AsyncGenerator<Uint8Array> {
  const next = (): Promise<Uint8Array> => {
    const reading = readOnce(fd, path, pieceBytes);
    reading.catch(() => undefined); // awaited a turn later
    return reading;
  };
  for (let reading = next(); ; ) {
    const piece = await reading;
    if (piece.length === 0) return;
    reading = next();
    yield piece;
  }
}

function readOnce(fd: number, path: string, pieceBytes: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const target = new Uint8Array(pieceBytes);
    fs.read(fd, target, 0, pieceBytes, null, (error, got) =>
      error ? reject(asNydusError(error, { path })) : resolve(target.subarray(0, got)),
    );
  });
}
