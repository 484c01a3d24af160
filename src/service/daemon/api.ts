import { ERROR_CODES, type ErrorCode, type ErrorPlace, NydusError } from "../../base/errors.ts";
import type { FetchStats } from "../../content/cache/fetch-meter.ts";
import type { ImageRequest } from "../../operation/image/mount-source.ts";
import type { PrefetchChoice } from "../../operation/image/prefetch.ts";
import type { SessionStats } from "../../operation/mount/engine.ts";
import { ENGINES, type EngineName } from "../../operation/mount/engines.ts";
import { type MountFlags, parseMountFlags } from "../../operation/mount/mount-flags.ts";
import type { ListedMount } from "../../operation/mount/mount-record.ts";
import { absolute, bad, objectOf, text } from "./body-fields.ts";
import { type ImageBody, parseImage } from "./image-body.ts";

/**
 * What requests and answers mean. Programs of several versions use one daemon as long as this is the same; it grows with
 * every change that a daemon of before would not understand, and then `daemonPaths` is to have other names.
 */
export const API_NUMBER = "1";
/** Header of every request: {@link API_NUMBER} of the program that asks. */
export const API_HEADER = "x-nydus-api";
/** Most bytes of a request's body. */
export const BODY_LIMIT_BYTES = 64 << 10;
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Body of `POST /v1/mounts`. Paths are absolute: the daemon has a working directory of its own. */
export interface MountBody {
  readonly image: ImageBody;
  /** What the user called it. */
  readonly shown: string;
  readonly mountpoint: string;
  readonly engine: EngineName;
  readonly readTimeoutMs: number;
  /** As after `-o`. */
  readonly options: string;
  /** What the image says unless given. */
  readonly prefetch?: PrefetchChoice | undefined;
  readonly prefetchBytesPerSec?: number | undefined;
  /** A file to write first accesses to. A daemon that does not know it refuses to mount. */
  readonly trace?: string | undefined;
}

/** A {@link MountBody} that has been checked. */
export interface MountCall {
  /** What was checked: a successor of the daemon checks it again. */
  readonly body: unknown;
  readonly image: ImageRequest;
  readonly shown: string;
  readonly mountpoint: string;
  readonly engine: EngineName;
  readonly readTimeoutMs: number;
  readonly flags: MountFlags;
  readonly prefetch: PrefetchChoice;
  readonly prefetchBytesPerSec: number | undefined;
  readonly trace: string | undefined;
}

/** A mount as `GET /v1/mounts` gives it. */
export interface MountInfo extends ListedMount {
  readonly stats: SessionStats | undefined;
  /** What has been fetched because of it. */
  readonly fetched?: FetchStats | undefined;
}

/** What `GET /v1/status` gives. */
export interface DaemonStatus {
  /** An ending daemon unmounts, and takes no more mounts. */
  readonly state: "running" | "ending";
  readonly pid: number;
  readonly version: string;
  readonly root: string;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly mounts: number;
  /** Images that are open: mounts of one image share it. */
  readonly images: number;
  readonly threads: number;
  /** How images are mounted unless asked otherwise, and why; not there before the first one was. */
  readonly engine?: string | undefined;
  /** It ends when nothing has been mounted for so long. */
  readonly idleMs: number;
  /** Resident, and of it what is not file pages; bytes. */
  readonly rssBytes: number;
  readonly rssAnonBytes: number;
  readonly openFiles: number;
}

/** Body of every answer that is an error; the HTTP status is the code's in `ERROR_CODES`. */
export interface ErrorBody {
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly at: ErrorPlace };
  /** The daemon is about to end: another one is to be started. */
  readonly closing?: boolean;
}

/**
 * Checks the body of `POST /v1/mounts`.
 * @throws EINVAL naming the field
 */
export function parseMountBody(value: unknown): MountCall {
  const needed = ["image", "shown", "mountpoint", "engine", "readTimeoutMs", "options"];
  const body = objectOf(value, "body", [...needed, "prefetch", "prefetchBytesPerSec", "trace"]);
  const { engine, readTimeoutMs } = body;
  if (typeof engine !== "string" || !Object.hasOwn(ENGINES, engine)) {
    throw bad("engine", `one of ${Object.keys(ENGINES).join(", ")}`);
  }
  if (
    !Number.isInteger(readTimeoutMs) ||
    !((readTimeoutMs as number) > 0) ||
    (readTimeoutMs as number) > MAX_TIMEOUT_MS
  )
    throw bad("readTimeoutMs", "a number of milliseconds");
  return {
    body: value,
    image: parseImage(body["image"]),
    shown: text(body["shown"], "shown"),
    mountpoint: absolute(body["mountpoint"], "mountpoint"),
    engine: engine as EngineName,
    readTimeoutMs: readTimeoutMs as number,
    flags: parseMountFlags(body["options"] === "" ? "" : text(body["options"], "options")),
    prefetch: parsePrefetch(body["prefetch"]),
    prefetchBytesPerSec: parseRate(body["prefetchBytesPerSec"]),
    trace: body["trace"] === undefined ? undefined : absolute(body["trace"], "trace"),
  };
}

function parsePrefetch(value: unknown = "image"): PrefetchChoice {
  if (value === "all" || value === "none" || value === "image") return value;
  return { listPath: absolute(objectOf(value, "prefetch", ["listPath"])["listPath"], "prefetch.listPath") };
}

function parseRate(value: unknown): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && (value as number) > 0)) return value as number | undefined;
  throw bad("prefetchBytesPerSec", "a number of bytes");
}

/** The command of `POST /v1/upgrade`: `{command: [program, argument, …]}`. @throws EINVAL */
export function parseUpgradeBody(value: unknown): readonly string[] {
  const { command } = objectOf(value, "body", ["command"]);
  if (!Array.isArray(command) || command.length === 0) throw bad("command", "a program and its arguments");
  return command.map((word: unknown, i) => (i === 0 ? absolute(word, "command[0]") : text(word, `command[${i}]`)));
}

/** The mount point and `lazy` of `DELETE /v1/mounts?mountpoint=…&lazy=true`. @throws EINVAL */
export function parseUmountQuery(query: URLSearchParams): { readonly mountpoint: string; readonly lazy: boolean } {
  const lazy = query.get("lazy") ?? "false";
  if (lazy !== "true" && lazy !== "false") throw bad("lazy", "true or false");
  return { mountpoint: absolute(query.get("mountpoint") ?? undefined, "mountpoint"), lazy: lazy === "true" };
}

/** The error of an answer, as if it had been thrown here. */
export function errorOfBody(body: unknown): NydusError {
  const error = (body as Partial<ErrorBody> | undefined)?.error;
  if (typeof error?.message !== "string" || !Object.hasOwn(ERROR_CODES, error.code)) {
    return new NydusError("EFAULT", "Cannot understand the daemon's answer");
  }
  return new NydusError(error.code, error.message, typeof error.at === "object" ? error.at : {});
}
