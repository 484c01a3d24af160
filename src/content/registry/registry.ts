import type { ByteRange } from "../../base/bytes.ts";
import { type Digest, isDigest, parseDigest } from "../../base/digest.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import { type Descriptor, parseManifestOrIndex } from "../../format/oci/manifest.ts";
import { essence, MANIFEST_ACCEPT, MEDIA_TYPE, mediaKind } from "../../format/oci/media-type.ts";
import { apiHost, isLoopback, type Reference } from "../../format/oci/reference.ts";
import { httpFailure } from "../http/failure.ts";
import type { HttpResponse } from "../http/response.ts";
import type { HttpClient, HttpRequest, RequestBody } from "../http/transport.ts";
import { hasUserInfo, parseUrl, shownUrl } from "../http/url.ts";
import { SMALL_CONTENT_BYTES, sha256Digest } from "../store/verify.ts";
import { type RegistryAction, RegistryAuth } from "./auth.ts";
import type { CredentialSource } from "./credential.ts";
import { openRangedAnswer, readRangedAnswer } from "./ranged-answer.ts";
import type { SharedAuths } from "./shared-auths.ts";

/** A manifest as a registry gave it, verified. */
export interface FetchedManifest {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

/** A blob that is asked for. */
export interface RemoteBlob {
  readonly digest: Digest;
  /** Bytes; undefined where whoever named the blob did not say. */
  readonly size?: number | undefined;
}

/** Which blob, or part of it, and until when. */
export interface BlobRequest {
  readonly blob: RemoteBlob;
  readonly range: ByteRange;
  /** Where an earlier answer came from, to be asked first. */
  readonly via?: URL | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What repositories are reached with. */
export interface RegistryAccess {
  readonly http: HttpClient;
  readonly credentials: CredentialSource;
  /** Whether plain HTTP is spoken; unless given, with registries on this machine only. */
  readonly plainHttp?: boolean | undefined;
  /** Milliseconds, for the life of tokens; the system's clock unless given. */
  readonly now?: (() => number) | undefined;
  /** Where the tokens are that others have got; unless given each {@link Registry} gets its own. */
  readonly auths?: SharedAuths | undefined;
}

/** A {@link RegistryAccess} that ends, or is given back, by disposing. */
export interface OpenedAccess extends RegistryAccess, AsyncDisposable {}

/** Where a registry's API is. @param plainHttp as in {@link RegistryAccess} */
export function apiUrl(registry: string, plainHttp = isLoopback(registry)): URL {
  const scheme = plainHttp ? "http" : "https";
  return new URL(`${scheme}://${apiHost(registry)}/v2/`);
}

/** Uploads are sent in one go: a large one takes its time. */
const UPLOAD_TIMEOUT_MS = 60 * 60 * 1000;
/** Answers of a storage address that has had its time. */
const EXPIRED = [401, 403, 404, 410];

/**
 * One repository of a registry, over the distribution-spec's API. Plain HTTP is spoken with this machine, and with
 * others only on request; neither it nor https ever turns into the other.
 */
export class Registry {
  readonly #http: HttpClient;
  readonly #auth: RegistryAuth;
  readonly #base: URL;

  constructor(access: RegistryAccess, { registry, repository }: Pick<Reference, "registry" | "repository">) {
    const { http, credentials, plainHttp, now, auths } = access;
    this.#http = http;
    this.#base = new URL(`${repository}/`, apiUrl(registry, plainHttp));
    const options = { http, api: this.#base, registry, repository, credentials, now };
    this.#auth = auths?.of(options) ?? new RegistryAuth(options);
  }

  /**
   * A manifest or index.
   * @param key tag or digest
   * @throws ENOENT; EBADMSG another digest than asked for; EUCLEAN malformed or above 4 MiB; EACCES, EIO
   */
  async getManifest(key: string, signal?: AbortSignal): Promise<FetchedManifest> {
    const url = this.#manifestUrl(key);
    const request: HttpRequest = { method: "GET", url, headers: { accept: MANIFEST_ACCEPT }, signal };
    return await this.#send(request, async (response) => {
      if (response.status !== 200) throw await httpFailure(response, `get manifest ${key}`);
      const bytes = await response.bytes(SMALL_CONTENT_BYTES);
      return inPlace({ url: shownUrl(url) }, () => describeManifest(key, bytes, response));
    });
  }

  /** Whether there is a manifest of this tag or digest. @throws EACCES, EIO */
  async hasManifest(key: string, signal?: AbortSignal): Promise<boolean> {
    const request: HttpRequest = {
      method: "HEAD",
      url: this.#manifestUrl(key),
      headers: { accept: MANIFEST_ACCEPT },
      signal,
    };
    return await this.#send(request, async (response) => isThere(response, `look for manifest ${key}`));
  }

  /** Whether there is a blob, of the size that it should have. @throws EACCES, EIO */
  async hasBlob(blob: Pick<Descriptor, "digest" | "size">, signal?: AbortSignal): Promise<boolean> {
    const url = this.#blobUrl(blob.digest);
    return await this.#send({ method: "HEAD", url, signal }, async (response) => {
      if (!(await isThere(response, "look for blob"))) return false;
      const length = response.header("content-length");
      return length === undefined || Number(length) === blob.size;
    });
  }

  /**
   * Exactly a range of a blob, and where it came from. The bytes are not verified.
   * @throws ENOENT; EUCLEAN, ENOTSUP another range than asked; EACCES, EIO, ETIMEDOUT
   */
  async readBlob(asked: BlobRequest): Promise<{ readonly bytes: Uint8Array; readonly url: URL }> {
    const { range, blob } = asked;
    const read = async (response: HttpResponse): Promise<{ bytes: Uint8Array; url: URL }> => ({
      bytes: await readRangedAnswer(response, { range, sizeBytes: blob.size }),
      url: response.url,
    });
    const viaOther = asked.via !== undefined && asked.via.origin !== this.#base.origin ? asked.via : undefined;
    if (viaOther !== undefined) {
      const request: HttpRequest = {
        method: "GET",
        url: viaOther,
        headers: rangeHeader(range),
        isGuarded: true,
        signal: asked.signal,
      };
      const got = await this.#http.send(request, async (response) =>
        EXPIRED.includes(response.status) ? undefined : await read(response),
      );
      if (got !== undefined) return got;
    }
    return await this.#send(this.#rangeRequest(asked), read);
  }

  /** A blob's bytes from a range's start on, as they come. @throws as {@link readBlob}, also while they come */
  async openBlob(asked: BlobRequest): Promise<AsyncGenerator<Uint8Array>> {
    const request = this.#rangeRequest(asked);
    return await this.#authorized(request, async (inner, isRefusal) => {
      const response = await this.#http.open(inner);
      try {
        if (isRefusal(response)) {
          await response.discard();
          return refusal(response);
        }
        return done(await openRangedAnswer(response, { range: asked.range, sizeBytes: asked.blob.size }));
      } catch (error) {
        await response.discard();
        throw error;
      }
    });
  }

  #rangeRequest({ blob, range, signal }: BlobRequest): HttpRequest {
    const isWhole = range.start === 0 && range.end === blob.size;
    const headers = isWhole ? {} : rangeHeader(range);
    return { method: "GET", url: this.#blobUrl(blob.digest), headers, signal };
  }

  /**
   * Sends a blob in one go: POST for a place, PUT of the bytes.
   * @throws EACCES, EIO, ENOSPC; EBADMSG when the registry got other bytes
   */
  async putBlob(digest: Digest, body: RequestBody, signal?: AbortSignal): Promise<void> {
    const place = await this.#openUpload(signal);
    place.searchParams.set("digest", parseDigest(digest));
    const headers = { "content-type": "application/octet-stream" };
    const isGuarded = place.origin !== this.#base.origin;
    const timeoutMs = UPLOAD_TIMEOUT_MS;
    const request: HttpRequest = { method: "PUT", url: place, headers, body, isGuarded, signal, timeoutMs };
    // A place is used up by a try that broke: the caller asks for a new one.
    await this.#authorized(request, (inner, isRefusal) =>
      this.#http.sendOnce(inner, async (response) => {
        if (isRefusal(response)) return refusal(response);
        if (response.status !== 201 && response.status !== 204) throw await httpFailure(response, "upload blob");
        checkEcho(response, digest);
        return done(undefined);
      }),
    );
  }

  async #openUpload(signal: AbortSignal | undefined): Promise<URL> {
    const url = new URL("blobs/uploads/", this.#base);
    return await this.#send({ method: "POST", url, body: new Uint8Array(0), signal }, async (response) => {
      if (response.status !== 202) throw await httpFailure(response, "begin upload");
      const place = parseUrl(response.header("location"), url);
      const isSafe = place?.protocol === "https:" || place?.origin === url.origin;
      if (place === undefined || !isSafe || hasUserInfo(place)) {
        throw new NydusError("EACCES", "Cannot begin upload: the place for it may not be asked", {
          url: shownUrl(url),
        });
      }
      return place;
    });
  }

  /** Gives a manifest its tag or digest. @throws EACCES, EIO; EBADMSG */
  async putManifest(key: string, descriptor: Descriptor, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    const headers = { "content-type": descriptor.mediaType };
    const request: HttpRequest = { method: "PUT", url: this.#manifestUrl(key), headers, body: bytes, signal };
    await this.#send(request, async (response) => {
      if (response.status !== 201 && response.status !== 200) throw await httpFailure(response, `put manifest ${key}`);
      checkEcho(response, descriptor.digest);
    });
  }

  #manifestUrl(key: string): URL {
    return new URL(`manifests/${key}`, this.#base);
  }

  #blobUrl(digest: Digest): URL {
    return new URL(`blobs/${parseDigest(digest)}`, this.#base);
  }

  #send<T>(request: HttpRequest, read: (response: HttpResponse) => Promise<T>): Promise<T> {
    return this.#authorized(request, (inner, isRefusal) =>
      this.#http.send(inner, async (response) =>
        isRefusal(response) ? refusal(response) : done(await read(response)),
      ),
    );
  }

  /**
   * Asks, and where the registry wants authorization, gets it and asks once more: what it answers then counts. A 401
   * from behind a redirect to another origin is not the registry's, and is not answered.
   */
  async #authorized<T>(request: HttpRequest, attempt: Attempt<T>): Promise<T> {
    const { method, url, signal } = request;
    const action: RegistryAction = method === "GET" || method === "HEAD" ? "pull" : "push";
    const sent = await this.#auth.authorizationFor(url, action, signal);
    const isRefusal = (response: HttpResponse): boolean =>
      response.status === 401 && response.url.origin === this.#base.origin;
    const first = await attempt(withAuthorization(request, sent), isRefusal);
    if ("value" in first) return first.value;
    await this.#auth.answer({ action, challenges: first.challenges, sent, signal });
    const authorization = await this.#auth.authorizationFor(url, action, signal);
    const second = await attempt(withAuthorization(request, authorization), () => false);
    if ("value" in second) return second.value;
    throw new NydusError("EFAULT", "Cannot ask the registry: no answer was read");
  }
}

/** What came of a request: what was read, or that the registry wants authorization. */
type Outcome<T> = { readonly value: T } | { readonly challenges: readonly string[] };

/** Asks once. @param isRefusal whether an answer is to be left unread, and authorization to be got */
type Attempt<T> = (request: HttpRequest, isRefusal: (response: HttpResponse) => boolean) => Promise<Outcome<T>>;

function done<T>(value: T): Outcome<T> {
  return { value };
}

function refusal(response: HttpResponse): Outcome<never> {
  return { challenges: response.headers("www-authenticate") };
}

function withAuthorization(request: HttpRequest, authorization: string | undefined): HttpRequest {
  return authorization === undefined ? request : { ...request, headers: { ...request.headers, authorization } };
}

function rangeHeader({ start, end }: ByteRange): Record<string, string> {
  return { range: `bytes=${start}-${end - 1}` };
}

async function isThere(response: HttpResponse, action: string): Promise<boolean> {
  if (response.status === 200) return true;
  if (response.status === 404) return false;
  throw await httpFailure(response, action);
}

/** @throws EBADMSG when the registry says that it stored something else */
function checkEcho(response: HttpResponse, digest: Digest): void {
  const echo = response.header("docker-content-digest");
  if (echo === undefined || echo === digest || !isDigest(echo)) return;
  const message = `Cannot store content: the registry has ${echo}`;
  throw new NydusError("EBADMSG", message, { digest, url: shownUrl(response.url) });
}

function describeManifest(key: string, bytes: Uint8Array, response: HttpResponse): FetchedManifest {
  const digest = sha256Digest(bytes);
  const wanted = isDigest(key) ? key : response.header("docker-content-digest");
  if (wanted !== undefined && isDigest(wanted) && wanted !== digest) {
    throw new NydusError("EBADMSG", `Cannot verify manifest: its digest is ${digest}`, { digest: wanted });
  }
  const said = essence(response.header("content-type") ?? "");
  const isKnown = mediaKind(said) !== undefined;
  const parsed = parseManifestOrIndex(bytes, isKnown ? said : undefined);
  const own = parsed.kind === "index" ? parsed.index.mediaType : parsed.manifest.mediaType;
  const fallback = parsed.kind === "index" ? MEDIA_TYPE.ociIndex : MEDIA_TYPE.ociManifest;
  const mediaType = isKnown ? said : (own ?? fallback);
  return { descriptor: { mediaType, digest, size: bytes.length }, bytes };
}
