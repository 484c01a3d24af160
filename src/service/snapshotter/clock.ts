/** Further apart than this, the system's clock has been set, or the two have drifted. */
const DRIFT_MS = 2;
const MICROS_PER_MS = 1_000;

let originMs: number | undefined;

/** Microseconds since the epoch, by the system's clock: clients compare times to those that they have read themselves. */
export function microsNow(): number {
  const elapsed = performance.now();
  const now = Date.now();
  if (originMs === undefined || Math.abs(originMs + elapsed - now) > DRIFT_MS) originMs = findOrigin();
  return Math.floor((originMs + performance.now()) * MICROS_PER_MS);
}

/** When `performance.now()` was 0: the system's clock shows whole milliseconds, so the moment when one begins is waited for. */
function findOrigin(): number {
  const before = Date.now();
  let now = before;
  while (now === before) now = Date.now();
  return now - performance.now();
}
