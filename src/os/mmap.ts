import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { asNydusError } from "../base/errors.ts";
import { hasLibc, libc, systemFailure } from "./syscall.ts";

/** The bytes of a file. They must not be touched after `close`: under Bun they are a mapping that is then gone. */
export interface MappedFile extends Disposable {
  readonly bytes: Uint8Array;
  close(): void;
}

/**
 * Maps a file read-only: pages are shared with every other mapping of it. `Bun.mmap` is not used, since it opens the
 * file for writing and so fails on a read-only file system. Where there is no libc the file is read instead.
 * @throws ENOENT, EPERM, EIO as open(2) and mmap(2) have it
 */
export function mapFile(path: string): MappedFile {
  const fd = openToRead(path);
  try {
    const { size } = fstatSync(fd);
    if (size === 0 || !hasLibc()) return mapped(new Uint8Array(readFileSync(fd)), () => undefined);
    const { errno, mapping } = libc().mapFile(fd, size);
    if (mapping === undefined) throw systemFailure(errno, "map file", { path, length: size });
    return mapped(mapping.bytes, mapping.unmap);
  } catch (error) {
    throw asNydusError(error, { path });
  } finally {
    closeSync(fd);
  }
}

function openToRead(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

function mapped(bytes: Uint8Array, unmap: () => void): MappedFile {
  let open = true;
  const close = (): void => {
    if (open) unmap();
    open = false;
  };
  return { bytes, close, [Symbol.dispose]: close };
}
