import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { asNydusError, NydusError } from "../base/errors.ts";
import { hasLibc, libc, type Mapping, systemFailure } from "./syscall.ts";

/** The bytes of a file. They must not be touched after `close`: under Bun they are a mapping that is then gone. */
export interface MappedFile extends Disposable {
  readonly bytes: Uint8Array;
  /** Where {@link viewMapping} finds them in another thread; undefined where the file was read. */
  readonly address: number | undefined;
  /** The file, open for reading until `close`; undefined where the file was read. */
  readonly fd?: number | undefined;
  close(): void;
}

/**
 * Maps a file read-only: pages are shared with every other mapping of it. `Bun.mmap` is not used, since it opens the
 * file for writing and so fails on a read-only file system. Where there is no libc the file is read instead.
 * @throws ENOENT, EPERM, EIO as open(2) and mmap(2) have it
 */
export function mapFile(path: string): MappedFile {
  const fd = openToRead(path);
  let kept = false;
  try {
    const { size } = fstatSync(fd);
    if (size === 0 || !hasLibc()) return mapped(new Uint8Array(readFileSync(fd)));
    const { errno, mapping } = libc().mapFile(fd, size);
    if (mapping === undefined) throw systemFailure(errno, "map file", { path, length: size });
    kept = true;
    return mapped(mapping.bytes, { mapping, fd });
  } catch (error) {
    throw asNydusError(error, { path });
  } finally {
    if (!kept) closeSync(fd);
  }
}

/**
 * Maps a file that is open already, as {@link mapFile} does. The descriptor stays the caller's.
 * @throws EINVAL an empty file; EIO; ENOTSUP without libc
 */
export function mapOpenFile(fd: number): MappedFile {
  const copy = libc().duplicateFd(fd);
  if (copy.fd === undefined) throw systemFailure(copy.errno, "copy a descriptor");
  const { errno, mapping } = libc().mapFile(fd, fstatSync(fd).size);
  if (mapping !== undefined) return mapped(mapping.bytes, { mapping, fd: copy.fd });
  closeSync(copy.fd);
  throw systemFailure(errno, "map file");
}

/** Maps a whole file so that what is written to it is seen by all processes that do. @throws EINVAL an empty file */
export function mapShared(fd: number): Mapping {
  const { errno, mapping } = libc().mapShared(fd, fstatSync(fd).size);
  if (mapping === undefined) throw systemFailure(errno, "map memory");
  return mapping;
}

/** Memory that other processes can map too, by its descriptor. */
export interface SharedMemory extends Disposable {
  readonly fd: number;
  readonly mapping: SharedMapping;
}

/**
 * Makes memory of a size, all zeros, all of it there: nothing that writes to it fails for want of a page.
 * @param name for /proc @throws EIO no memory or descriptor left
 */
export function makeSharedMemory(name: string, sizeBytes: number): SharedMemory {
  const { errno, fd } = libc().memoryFile(name);
  if (fd === undefined) throw systemFailure(errno, "make a memory file");
  try {
    ftruncateSync(fd, sizeBytes);
    const { address, bytes, unmap } = mapShared(fd);
    bytes.fill(0);
    const dispose = (): void => {
      unmap();
      closeSync(fd);
    };
    return { fd, mapping: { address, sizeBytes }, [Symbol.dispose]: dispose };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function openToRead(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

function mapped(bytes: Uint8Array, file?: { readonly mapping: Mapping; readonly fd: number }): MappedFile {
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    if (file === undefined) return;
    file.mapping.unmap();
    closeSync(file.fd);
  };
  return { bytes, address: file?.mapping.address, fd: file?.fd, close, [Symbol.dispose]: close };
}

/** A mapping as a message to another thread of this process carries it. */
export interface SharedMapping {
  readonly address: number;
  readonly sizeBytes: number;
}

/**
 * A mapping for another thread: one mapping for all of them counts once as resident memory.
 * @throws ENOTSUP where files are not mapped but read
 */
export function shareMapping({ address, bytes }: MappedFile): SharedMapping {
  if (address === undefined) throw new NydusError("ENOTSUP", "Cannot share bytes between threads: they are not mapped");
  return { address, sizeBytes: bytes.length };
}

/** The bytes of a shared mapping. The thread that made it must keep it open for as long as they are used. */
export function viewMapping({ address, sizeBytes }: SharedMapping): Uint8Array {
  return libc().viewMapping(address, sizeBytes);
}
