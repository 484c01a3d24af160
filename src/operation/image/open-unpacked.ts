import { createHash } from "node:crypto";
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { readFully } from "../../content/store/file-io.ts";

/** A regular file of an unpacked layer. */
export interface UnpackedFile extends Disposable {
  readonly fd: number;
  /** For messages. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Names the content: it changes with every write. */
  readonly identity: string;
}

/** Read at once to be hashed. */
const PIECE_BYTES = 4 << 20;
const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;

/**
 * Opens a file of a directory that a layer was unpacked into. The layer is anyone's: what it has under that name may
 * be a symlink that leads out of the directory, or a device, which is not even opened.
 * @param parts names, one a level
 * @returns undefined when there is no such file
 * @throws EUCLEAN something else than directories and a regular file; EPERM, EIO
 */
export function openUnpacked(dir: string, parts: readonly string[]): UnpackedFile | undefined {
  const path = join(dir, ...parts);
  const fds: number[] = [];
  try {
    fds.push(openSync(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    for (const [i, name] of parts.entries()) {
      const isLast = i === parts.length - 1;
      // By the descriptor of its directory: no level is looked up twice.
      const inner = `/proc/self/fd/${fds[i]}/${name}`;
      const found = lstatSync(inner, { throwIfNoEntry: false });
      if (found === undefined) return undefined;
      if (isLast ? !found.isFile() : !found.isDirectory()) throw strange(path, isLast);
      fds.push(openSync(inner, O_RDONLY | O_NOFOLLOW | (isLast ? O_NONBLOCK : O_DIRECTORY)));
    }
    return unpackedFile(fds.pop() as number, path);
  } catch (error) {
    throw asNydusError(error, { path });
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

function strange(path: string, isLast: boolean): NydusError {
  const found = isLast ? "not a regular file" : "a part of its path is no directory";
  return new NydusError("EUCLEAN", `Cannot open file of a layer: ${found}`, { path });
}

function unpackedFile(fd: number, path: string): UnpackedFile {
  const found = fstatSync(fd, { bigint: true });
  if (!found.isFile()) {
    closeSync(fd);
    throw strange(path, true);
  }
  const { dev, ino, size, mtimeNs, ctimeNs } = found;
  const identity = [dev, ino, size, mtimeNs, ctimeNs].join(":");
  return { fd, path, sizeBytes: Number(size), identity, [Symbol.dispose]: () => closeSync(fd) };
}

/** The SHA-256 of a file, hex; it may be large, and is read piece by piece. @throws EIO */
export async function sha256OfUnpacked({ fd, path, sizeBytes }: UnpackedFile): Promise<string> {
  const hash = createHash("sha256");
  for (let at = 0; at < sizeBytes; at += PIECE_BYTES) {
    hash.update(await readFully(fd, { start: at, end: Math.min(sizeBytes, at + PIECE_BYTES) }, path));
  }
  return hash.digest("hex");
}

/** All bytes of a file, which is closed then. @throws EUCLEAN more than `limitBytes`; EIO */
export function readUnpacked(file: UnpackedFile, limitBytes: number): Uint8Array {
  using open = file;
  if (open.sizeBytes > limitBytes) {
    const { path, sizeBytes } = open;
    throw new NydusError("EUCLEAN", `Cannot read file of a layer: ${sizeBytes} bytes are too many`, { path });
  }
  try {
    return readFileSync(open.fd);
  } catch (error) {
    throw asNydusError(error, { path: open.path });
  }
}
