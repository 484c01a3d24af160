import { Semaphore, withDeadline } from "../../../base/async.ts";
import { NydusError } from "../../../base/errors.ts";
import { orAborted, throwIfAborted } from "../../../content/store/abort.ts";
import type { MountDevice } from "../engine.ts";
import type { FileData, ReadRequest } from "./file-data.ts";

/** Reads that wait for data at once; more wait in order before they ask for any. */
const DEMAND_LIMIT = 64;

/** Serves reads whose data is not there yet: fetches what is missing, each read within its deadline. */
export class DemandReader {
  readonly #files: FileData;
  readonly #devices: readonly MountDevice[];
  readonly #readTimeoutMs: number;
  readonly #places = new Semaphore(DEMAND_LIMIT);
  readonly #ended = new AbortController();

  constructor(files: FileData, devices: readonly MountDevice[], readTimeoutMs: number) {
    this.#files = files;
    this.#devices = devices;
    this.#readTimeoutMs = readTimeoutMs;
  }

  /**
   * Reads file data, fetching what is missing.
   * @returns bytes written to `target` from `at` on; fewer than asked only at the file's end
   * @throws as {@link ensure}
   */
  async read(request: ReadRequest, target: Uint8Array, at: number): Promise<number> {
    await this.ensure(request);
    return this.readReady(request, target, at);
  }

  /**
   * Resolves when all data of a request is ready.
   * @throws ETIMEDOUT after the deadline, in line or under way; what the device throws
   */
  ensure(request: ReadRequest): Promise<void> {
    return withDeadline(
      this.#readTimeoutMs,
      "read file data",
      (signal) => this.#places.hold(() => orAborted(this.#fetch(request, signal), signal)),
      this.#ended.signal,
    );
  }

  /** Reads what {@link ensure} has brought; as `FileData.readReady`. @throws EFAULT it is not there after all */
  readReady(request: ReadRequest, target: Uint8Array, at: number): number {
    const length = this.#files.readReady(request, target, at);
    if (length === undefined) throw new NydusError("EFAULT", "Cannot read file data: fetched, but not ready");
    return length;
  }

  /** Aborts every read: nobody waits for them any more. */
  end(): void {
    this.#ended.abort(new NydusError("ECANCELED", "Cannot read file data: the mount has ended"));
  }

  async #fetch(request: ReadRequest, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    await Promise.all(
      this.#files.rangesOf(request).map(({ device, range }) => {
        const found = this.#devices[device - 1];
        if (found === undefined) throw new NydusError("EUCLEAN", `Cannot read device ${device}: not in the mount`);
        return found.ensure(range, { why: "demand", signal });
      }),
    );
  }
}
