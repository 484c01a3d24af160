import { runtime } from "./runtime.ts";

/** How often {@link watchMemory} looks. */
const WATCH_MS = 2_000;

/**
 * Frees what this thread's programs have thrown away lately; takes a fraction of a millisecond. The engine counts a
 * mapped file as memory of the thread's own, so beside a large one it would collect far too seldom.
 */
export function collectYoung(): void {
  jsc()?.edenGC();
}

/**
 * Frees all that this thread has thrown away; may take 100 ms. Not by `Bun.gc(true)`, which throws compiled code away
 * too: after each rest a thread would begin as slowly as a new one.
 */
export function releaseMemory(): void {
  jsc()?.fullGC();
}

function jsc(): typeof import("bun:jsc") | undefined {
  if (runtime() !== "bun") return undefined;
  return (process.getBuiltinModule as (id: string) => unknown)("bun:jsc") as typeof import("bun:jsc");
}

/**
 * Has the garbage of this thread collected while it works, and its memory given back when it rests.
 * @param activity grows with the work that is done
 */
export function watchMemory(activity: () => number): Disposable {
  let before = activity();
  let worked = true;
  const timer = setInterval(() => {
    const now = activity();
    if (now !== before) collectYoung();
    else if (worked) releaseMemory();
    worked = now !== before;
    before = now;
  }, WATCH_MS);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
