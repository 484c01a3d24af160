/** Where an error is: each floor adds the coordinate that it knows, the innermost wins. */
export interface ErrorPlace {
  readonly digest?: string;
  readonly path?: string;
  /** Bytes from the start of what `path` or `digest` names. */
  readonly offset?: number;
  /** Bytes. */
  readonly length?: number;
  /** Without user info and query string. */
  readonly url?: string;
}

interface CodeRow {
  /** Linux errno that a file system reader sees. */
  readonly errno: number;
  /** Exit status of the program; the README's table is this column. */
  readonly exit: number;
  /** gRPC status code (google.rpc.Code). */
  readonly grpc: number;
  /** HTTP status of the daemon's API. */
  readonly http: number;
  readonly meaning: string;
}

/** The one table of failures: every edge (errno, HTTP, gRPC, exit status) reads its column here. */
export const ERROR_CODES = {
  EINVAL: { errno: 22, exit: 2, grpc: 3, http: 400, meaning: "bad usage or argument" },
  ENOENT: { errno: 2, exit: 3, grpc: 5, http: 404, meaning: "no such image, file or platform" },
  EUCLEAN: { errno: 117, exit: 4, grpc: 15, http: 500, meaning: "malformed or damaged data" },
  EBADMSG: { errno: 74, exit: 5, grpc: 15, http: 500, meaning: "digest or checksum mismatch" },
  ENOTSUP: { errno: 95, exit: 6, grpc: 12, http: 501, meaning: "valid, but not supported here" },
  EIO: { errno: 5, exit: 7, grpc: 14, http: 502, meaning: "input, output or network failure" },
  ETIMEDOUT: { errno: 110, exit: 7, grpc: 4, http: 504, meaning: "no answer before the deadline" },
  EACCES: { errno: 13, exit: 8, grpc: 16, http: 401, meaning: "the registry refused the credentials" },
  EPERM: { errno: 1, exit: 9, grpc: 7, http: 403, meaning: "the system refused: needs root or a capability" },
  ENOSPC: { errno: 28, exit: 10, grpc: 8, http: 507, meaning: "no space left" },
  EEXIST: { errno: 17, exit: 11, grpc: 6, http: 409, meaning: "exists already" },
  EBUSY: { errno: 16, exit: 11, grpc: 9, http: 409, meaning: "in use" },
  ECANCELED: { errno: 125, exit: 130, grpc: 1, http: 499, meaning: "interrupted" },
  EFAULT: { errno: 14, exit: 1, grpc: 13, http: 500, meaning: "an error in this program" },
} as const satisfies Record<string, CodeRow>;

/** A kind of failure; callers decide on this, never on message text. */
export type ErrorCode = keyof typeof ERROR_CODES;

/** The only error this program throws on purpose: a code, a sentence, and where it happened. */
export class NydusError extends Error {
  override readonly name = "NydusError";
  readonly code: ErrorCode;
  readonly at: ErrorPlace;

  /**
   * @param code kind of failure
   * @param message action that failed, colon, what was found and what was wanted; no period, no secrets
   * @param at where: only the coordinates this floor knows
   */
  constructor(code: ErrorCode, message: string, at: ErrorPlace = {}, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.at = at;
  }

  /** The same failure with coordinates of an outer floor; those already known stay. */
  within(place: ErrorPlace): NydusError {
    return new NydusError(this.code, this.message, { ...place, ...this.at }, { cause: this.cause ?? this });
  }
}

/** Runs `fn`, adding `place` to a NydusError that leaves it (also from a promise). */
export function inPlace<T>(place: ErrorPlace, fn: () => T): T {
  try {
    const result = fn();
    if (result instanceof Promise) return result.catch((error: unknown) => rethrowWithin(place, error)) as T;
    return result;
  } catch (error) {
    return rethrowWithin(place, error);
  }
}

function rethrowWithin(place: ErrorPlace, error: unknown): never {
  throw error instanceof NydusError ? error.within(place) : error;
}

/** Errno names of the operating system that mean one of our codes. */
const SYSTEM_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOENT: "ENOENT",
  ENOTDIR: "ENOENT",
  EACCES: "EPERM",
  EPERM: "EPERM",
  EROFS: "EPERM",
  ENOSPC: "ENOSPC",
  EDQUOT: "ENOSPC",
  EFBIG: "ENOSPC",
  EEXIST: "EEXIST",
  ENOTEMPTY: "EEXIST",
  EBUSY: "EBUSY",
  ETIMEDOUT: "ETIMEDOUT",
  ABORT_ERR: "ECANCELED",
};

/** Whatever was thrown, as a NydusError: a system error keeps its kind, anything unknown is EFAULT. */
export function asNydusError(error: unknown, place: ErrorPlace = {}): NydusError {
  if (error instanceof NydusError) return error.within(place);
  const system = error as { code?: unknown; message?: unknown; path?: unknown; name?: unknown };
  const path = typeof system?.path === "string" ? { path: system.path } : {};
  const message = typeof system?.message === "string" ? system.message : String(error);
  if (system?.name === "AbortError") return new NydusError("ECANCELED", "Interrupted", place, { cause: error });
  const known = typeof system?.code === "string" && /^E[A-Z0-9]+$|^ABORT_ERR$/.test(system.code);
  const code = known ? (SYSTEM_CODES[system.code as string] ?? "EIO") : "EFAULT";
  return new NydusError(code, message, { ...path, ...place }, { cause: error });
}

/** One line for a person: the sentence, then the coordinates. */
export function formatError(error: NydusError): string {
  const { digest, path, offset, length, url } = error.at;
  const parts = [
    url,
    digest,
    path === undefined ? undefined : JSON.stringify(path),
    offset === undefined ? undefined : `at byte ${offset}`,
    length === undefined ? undefined : `length ${length}`,
  ].filter((part) => part !== undefined);
  return parts.length === 0 ? error.message : `${error.message} (${parts.join(", ")})`;
}
