import { hasLibc, libc } from "./syscall.ts";

/** Has the kernel begin to read a part of a file into the page cache; where there is no libc, nothing happens. */
export function readIntoPageCache(fd: number, position: number, sizeBytes: number): void {
  if (hasLibc()) libc().adviseWillNeed(fd, position, sizeBytes);
}
