import { readSync } from "node:fs";
import type { ByteRange } from "../../../base/bytes.ts";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import type { Extent } from "../../../format/erofs/extent.ts";
import { readIntoPageCache } from "../../../os/page-cache.ts";
import { type ChunkTable, isRangeReady, isReadyBefore } from "../chunk-table.ts";
import { noteAccess, type TraceMemory } from "../trace/memory.ts";
import { DiskAhead } from "./disk-ahead.ts";
import type { ImageFs } from "./image-fs.ts";

/** One device as a mount reads it, `devices[slot - 1]`; the same memory and descriptor in every thread. */
export interface DeviceData {
  /** Descriptor of the sparse data file: byte `i` is device byte `i`, and true where its chunk is ready. */
  readonly fd: number;
  /** Bit `i` (of byte `i >> 3`, from the lowest) is set when chunk `i` is verified and in the file; shared memory. */
  readonly ready: Uint8Array;
  readonly chunks: ChunkTable;
}

type DeviceExtent = Extent & { readonly kind: "device" };

/** A part of a device that a read needs. */
export interface DeviceRange {
  /** 1-based slot. */
  readonly device: number;
  readonly range: ByteRange;
}

/** What a READ asks for. */
export interface ReadRequest {
  readonly nodeid: number;
  readonly offset: number;
  readonly sizeBytes: number;
}

/** The bytes of an image's files, as far as they are ready. */
export class FileData {
  readonly #fs: ImageFs;
  readonly #devices: readonly DeviceData[];
  readonly #ahead: readonly DiskAhead[];
  readonly #trace: TraceMemory | undefined;

  /** @param trace notes what is asked for */
  constructor(fs: ImageFs, devices: readonly DeviceData[], trace?: TraceMemory) {
    this.#fs = fs;
    this.#devices = devices;
    this.#trace = trace;
    this.#ahead = devices.map(() => new DiskAhead());
  }

  /**
   * Reads if all of it is ready.
   * @returns bytes written to `target` from `at` on (fewer than asked only at the file's end), or undefined
   * @throws EUCLEAN damaged bootstrap; EIO the data file fails or is too short
   */
  readReady(request: ReadRequest, target: Uint8Array, at: number): number | undefined {
    const extents = this.#fs.planRead(request.nodeid, request.offset, request.sizeBytes);
    if (this.#trace !== undefined) this.#note(this.#trace, request.nodeid, extents);
    for (const extent of extents) if (extent.kind === "device" && !this.#isReady(extent)) return undefined;
    let next = at;
    for (const extent of extents) {
      this.#copy(extent, target, next);
      next += extent.length;
    }
    return next - at;
  }

  /** What must be ready before {@link readReady} can serve the request, in file order. */
  rangesOf(request: ReadRequest): DeviceRange[] {
    const extents = this.#fs.planRead(request.nodeid, request.offset, request.sizeBytes);
    if (this.#trace !== undefined) this.#note(this.#trace, request.nodeid, extents);
    return extents.flatMap((extent) =>
      extent.kind === "device" && !this.#isReady(extent)
        ? [
            {
              device: extent.device,
              range: { start: extent.deviceOffset, end: extent.deviceOffset + extent.length },
            },
          ]
        : [],
    );
  }

  #note(trace: TraceMemory, nodeid: number, extents: readonly Extent[]): void {
    for (const extent of extents) {
      if (extent.kind !== "device") continue;
      const { device: slot, deviceOffset, length } = extent;
      const range = { start: deviceOffset, end: deviceOffset + length };
      noteAccess({ trace, slot, chunks: this.#device(slot).chunks }, range, this.#fs.nidOf(nodeid));
    }
  }

  #isReady(extent: DeviceExtent): boolean {
    const { chunks, ready } = this.#device(extent.device);
    return isRangeReady(chunks, ready, { start: extent.deviceOffset, end: extent.deviceOffset + extent.length });
  }

  #copy(extent: Extent, target: Uint8Array, at: number): void {
    if (extent.kind === "hole") target.fill(0, at, at + extent.length);
    else if (extent.kind === "meta") {
      target.set(this.#fs.bytes.subarray(extent.offset, extent.offset + extent.length), at);
    } else {
      const device = this.#device(extent.device);
      this.#readAhead(device, extent);
      readExactly(device.fd, extent, target, at);
    }
  }

  /** Only where data is: reading a hole would fill the page cache with zeros. */
  #readAhead({ fd, ready, chunks }: DeviceData, { device, deviceOffset, length }: DeviceExtent): void {
    const ahead = this.#ahead[device - 1]?.note({ start: deviceOffset, end: deviceOffset + length });
    if (ahead === undefined) return;
    const { start, end } = ahead;
    if (!isReadyBefore(chunks, ready, start) || !isReadyBefore(chunks, ready, end - 1)) return;
    readIntoPageCache(fd, start, end - start);
  }

  #device(slot: number): DeviceData {
    const device = this.#devices[slot - 1];
    if (device !== undefined) return device;
    throw new NydusError("EUCLEAN", `Cannot read device ${slot}: the mount has ${this.#devices.length}`);
  }
}

/** Reads an extent into `target` from `at` on. */
function readExactly(fd: number, { deviceOffset, length }: DeviceExtent, target: Uint8Array, at: number): void {
  for (let done = 0; done < length; ) {
    const count = readSome(fd, target, { at: at + done, length: length - done, position: deviceOffset + done });
    if (count === 0) {
      const place = { offset: deviceOffset, length };
      throw new NydusError("EIO", `Cannot read cached data: the file ends after ${done} bytes`, place);
    }
    done += count;
  }
}

function readSome(fd: number, target: Uint8Array, range: { at: number; length: number; position: number }): number {
  try {
    return readSync(fd, target, range.at, range.length, range.position);
  } catch (error) {
    throw asNydusError(error, { offset: range.position });
  }
}
