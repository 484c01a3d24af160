import { NydusError } from "../../base/errors.ts";

const RANGE = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/;
const MAX_ID = 2 ** 32 - 2;

/**
 * The host's id for id 0 of a container.
 * @param mapping `CONTAINER ID:HOST ID:SIZE`, comma-separated, as in the labels `uidmapping` and `gidmapping`
 * @throws EINVAL malformed, or nothing is said of id 0
 */
export function rootIdOf(mapping: string): number {
  for (const range of mapping.split(",")) {
    const [containerId, hostId, size] = (RANGE.exec(range) ?? []).slice(1).map(Number);
    if (containerId === undefined || hostId === undefined || size === undefined) {
      throw new NydusError("EINVAL", `Cannot read id mapping: ${JSON.stringify(range)} is not CONTAINER:HOST:SIZE`);
    }
    if (containerId === 0 && size > 0 && hostId <= MAX_ID) return hostId;
  }
  throw new NydusError("EINVAL", `Cannot read id mapping: ${JSON.stringify(mapping)} does not map id 0`);
}
