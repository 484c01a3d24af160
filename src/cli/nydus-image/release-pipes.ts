import { closeSync, constants, openSync, statSync } from "node:fs";

/**
 * Lets go of whoever waits at a pipe that a command which failed has not opened: a reader sees the end, a writer a
 * broken pipe. Nothing else is touched.
 */
export function releasePipes(paths: readonly (string | undefined)[]): void {
  for (const path of paths) {
    for (const mode of [constants.O_RDONLY, constants.O_WRONLY]) {
      try {
        if (path !== undefined && statSync(path).isFIFO()) closeSync(openSync(path, mode | constants.O_NONBLOCK));
      } catch {
        // nobody waits there, or there is no such pipe
      }
    }
  }
}
