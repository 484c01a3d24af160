import { closeSync, openSync } from "node:fs";
import { dirname, join } from "node:path";

/** Longest path that fits into a sockaddr_un with its NUL, bytes. */
const ADDRESS_BYTES = 107;

/** Files of the daemon of a state directory. */
export function daemonPaths(root: string): {
  readonly socket: string;
  readonly lock: string;
  readonly starting: string;
  readonly log: string;
} {
  return {
    socket: join(root, "daemon.sock"),
    lock: join(root, "daemon.lock"),
    starting: join(root, "daemon.starting"),
    log: join(root, "logs", "daemon.log"),
  };
}

/**
 * Runs something with a path of a socket that fits into an address: a long one goes through its directory's descriptor.
 * @throws what `use` throws; ENOENT the directory
 */
export async function withSocketAddress<T>(path: string, use: (address: string) => Promise<T>): Promise<T> {
  if (Buffer.byteLength(path) <= ADDRESS_BYTES) return await use(path);
  const fd = openSync(dirname(path), "r");
  try {
    return await use(join(`/proc/self/fd/${fd}`, path.slice(dirname(path).length)));
  } finally {
    closeSync(fd);
  }
}
