import { asNydusError, type NydusError } from "../../../base/errors.ts";
import { ErofsReader } from "../../../format/erofs/reader.ts";
import type { MappedFile } from "../../../os/mmap.ts";
import { printablePath } from "../../image/walk.ts";
import { type ChunkTable, chunkBytes, chunkStart, chunkTableOf } from "../chunk-table.ts";
import type { MountDevice } from "../engine.ts";
import type { TraceFile } from "./file.ts";
import { makeTraceMemory, readTraceRow, type TraceMemory, type TraceRow, traceTimeMs } from "./memory.ts";
import { TracePaths } from "./paths.ts";

/** How often it is looked for accesses that are not in the file yet. */
const WRITE_MS = 500;
/** Rows that are formatted before they are written: bounds memory. */
const ROWS_AT_ONCE = 1_000;

/** One line of a trace: the first access of some neighbouring chunks. `docs/trace.md` is about these. */
export interface TraceLine {
  /** As `printablePath` writes it; null where no file of the image has the chunks. */
  readonly path: string | null;
  /** Digest of the blob. */
  readonly blob: string;
  /** Where the chunks lie in the blob's uncompressed device, whole chunks; bytes. */
  readonly offset: number;
  readonly size: number;
  /** Milliseconds since the mount was made, to the microsecond. */
  readonly time: number;
  readonly cause: "demand";
}

/** What an {@link AccessTrace} is made of. */
export interface AccessTraceOptions {
  /** Closed by the caller, after the trace. */
  readonly file: Pick<TraceFile, "append" | "clear">;
  readonly source: {
    readonly bootstrap: MappedFile;
    readonly devices: readonly MountDevice[];
    readonly blobs?: readonly string[];
  };
  /** Hears once why the trace has stopped before the mount's end. */
  readonly onError: ((error: NydusError) => void) | undefined;
}

/**
 * Writes the first accesses of a mount to a file, in their order, while the mount goes on: each chunk once, one JSON
 * line each run of chunks ({@link TraceLine}). Threads note accesses in {@link memory}, the main thread finds their
 * paths and writes. What cannot be written ends the trace, not the mount.
 */
export class AccessTrace implements AsyncDisposable {
  readonly memory: TraceMemory;
  readonly #options: AccessTraceOptions;
  readonly #reader: ErofsReader;
  readonly #chunks: readonly ChunkTable[];
  #timer: ReturnType<typeof setInterval> | undefined;
  #startMs: number;
  /** Of the last line: threads look at the clock one after the other. */
  #lastMs = 0;
  #paths: Promise<TracePaths> | undefined;
  #next = 0;
  #writing: Promise<void> = Promise.resolve();
  #hasFailed = false;

  constructor(options: AccessTraceOptions) {
    this.#options = options;
    const { bootstrap, devices } = options.source;
    this.#reader = new ErofsReader(bootstrap.bytes);
    this.#chunks = devices.map(({ chunks }) => chunkTableOf(chunks));
    this.memory = makeTraceMemory(this.#chunks);
    this.#startMs = traceTimeMs();
  }

  /** The mount is made: times count from here, and what an earlier trace left in the file goes. */
  start(): void {
    this.#startMs = traceTimeMs();
    this.#writing = this.#options.file.clear().catch((error: unknown) => this.#fail(error));
    this.#timer = setInterval(() => void this.flush(), WRITE_MS);
    this.#timer.unref();
  }

  /** Writes what has been noted so far. */
  flush(): Promise<void> {
    this.#writing = this.#writing.then(() => this.#write());
    return this.#writing;
  }

  async #write(): Promise<void> {
    try {
      for (let rows = this.#take(); rows.length > 0 && !this.#hasFailed; rows = this.#take()) {
        this.#paths ??= TracePaths.of({ reader: this.#reader, devices: this.#chunks });
        const paths = await this.#paths;
        const lines = rows.flatMap((row) => this.#linesOf(row, paths));
        await this.#options.file.append(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    this.#hasFailed = true;
    clearInterval(this.#timer);
    this.#options.onError?.(asNydusError(error));
  }

  /** Rows that are not written to the file yet, up to the first that is still being noted. */
  #take(): TraceRow[] {
    const rows: TraceRow[] = [];
    while (rows.length < ROWS_AT_ONCE) {
      const row = readTraceRow(this.memory, this.#next);
      if (row === undefined) break;
      rows.push(row);
      this.#next++;
    }
    return rows;
  }

  /** A line for each file: who asked may not have said which one it reads. */
  #linesOf(row: TraceRow, paths: TracePaths): TraceLine[] {
    const lines: TraceLine[] = [];
    for (let first = row.first; first < row.end; ) {
      const nid = row.nid ?? paths.ownerOf(row.slot, first);
      let end = row.nid === undefined ? first + 1 : row.end;
      while (end < row.end && paths.ownerOf(row.slot, end) === nid) end++;
      lines.push(this.#lineOf({ ...row, first, end, nid }, paths));
      first = end;
    }
    return lines;
  }

  #lineOf({ slot, first, end, nid, timeMs }: TraceRow, paths: TracePaths): TraceLine {
    const path = nid === undefined ? undefined : paths.pathOf(nid);
    const chunks = this.#chunks[slot - 1] as ChunkTable;
    const offset = chunkStart(chunks, first);
    this.#lastMs = Math.max(this.#lastMs, timeMs - this.#startMs);
    return {
      path: path === undefined ? null : printablePath(path),
      blob: `sha256:${this.#options.source.blobs?.[slot - 1] ?? ""}`,
      offset,
      size: chunkStart(chunks, end - 1) + chunkBytes(chunks, end - 1) - offset,
      time: Math.round(this.#lastMs * 1000) / 1000,
      cause: "demand",
    };
  }

  /** Writes the rest; nobody notes anything any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#timer === undefined) return; // there was no mount
    clearInterval(this.#timer);
    await this.flush();
  }
}
