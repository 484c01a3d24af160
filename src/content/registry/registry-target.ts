import type { Digest } from "../../base/digest.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { mediaKind } from "../../format/oci/media-type.ts";
import { manifestKey, type Reference } from "../../format/oci/reference.ts";
import { isPassing } from "../http/failure.ts";
import type { RequestBody } from "../http/transport.ts";
import { throwIfAborted } from "../store/abort.ts";
import { FileSource } from "../store/file-source.ts";
import { checkWritten, type StagedFile } from "../store/staged-file.ts";
import type { BlobSink, ImageTarget, StoreContext } from "../store/store.ts";
import { stageIn } from "../store/tar-archive.ts";
import { verifyContent } from "../store/verify.ts";
import { type OpenedAccess, Registry } from "./registry.ts";
import { openAccess } from "./registry-options.ts";

/** An upload that breaks is begun anew so many times. */
const UPLOAD_TRIES = 3;

/** A place in a registry: `docker://HOST/REPO[:TAG]`. Blobs wait in temporary files until their digest is known. */
export function openRegistryTarget(reference: Reference, name: string, context: StoreContext): ImageTarget {
  return new RegistryTarget(reference, name, context);
}

class RegistryTarget implements ImageTarget {
  readonly name: string;
  readonly #access: OpenedAccess;
  readonly #registry: Registry;
  readonly #reference: Reference;
  readonly #context: StoreContext;

  constructor(reference: Reference, name: string, context: StoreContext) {
    this.name = name;
    this.#reference = reference;
    this.#context = context;
    this.#access = openAccess(context.registry);
    this.#registry = new Registry(this.#access, reference);
  }

  hasBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<boolean> {
    return inPlace({ digest: descriptor.digest }, () => this.#registry.hasBlob(descriptor, this.#context.signal));
  }

  async newBlob(): Promise<BlobSink> {
    const upload = (digest: Digest, body: RequestBody): Promise<void> => this.#upload(digest, body);
    return new RegistrySink(await stageIn(this.#context.root), upload);
  }

  async putBytes(descriptor: Descriptor, bytes: Uint8Array): Promise<void> {
    verifyContent(descriptor, bytes);
    const kind = mediaKind(descriptor.mediaType);
    if (kind === "manifest" || kind === "index") {
      await this.#registry.putManifest(descriptor.digest, descriptor, bytes, this.#context.signal);
      return;
    }
    const open = async function* (): AsyncGenerator<Uint8Array> {
      yield bytes;
    };
    await this.#upload(descriptor.digest, { sizeBytes: bytes.length, open });
  }

  async commit(root: Descriptor, bytes: Uint8Array): Promise<void> {
    verifyContent(root, bytes);
    const { digest } = this.#reference;
    if (digest !== undefined && digest !== root.digest) {
      throw new NydusError("EINVAL", `Cannot write image ${this.name}: its digest is ${root.digest}`, { digest });
    }
    const key = this.#reference.tag ?? manifestKey(this.#reference);
    await this.#registry.putManifest(key, root, bytes, this.#context.signal);
  }

  async #upload(digest: Digest, body: RequestBody): Promise<void> {
    const { signal } = this.#context;
    await inPlace({ digest }, async () => {
      if (await this.#registry.hasBlob({ digest, size: body.sizeBytes }, signal)) return;
      for (let tries = 1; ; tries++) {
        throwIfAborted(signal);
        try {
          return await this.#registry.putBlob(digest, body, signal);
        } catch (error) {
          if (!isPassing(error) || tries >= UPLOAD_TRIES) throw error;
        }
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#access[Symbol.asyncDispose]();
  }
}

class RegistrySink implements BlobSink {
  readonly #file: StagedFile;
  readonly #upload: (digest: Digest, body: RequestBody) => Promise<void>;

  constructor(file: StagedFile, upload: (digest: Digest, body: RequestBody) => Promise<void>) {
    this.#file = file;
    this.#upload = upload;
  }

  write(data: Uint8Array): Promise<void> {
    return this.#file.write(data);
  }

  async commit(digest: Digest, sizeBytes: number): Promise<void> {
    checkWritten(this.#file, digest, sizeBytes);
    const { fd, path } = this.#file;
    const source = new FileSource({ fd, path, start: 0, sizeBytes, release: async () => undefined });
    await this.#upload(digest, { sizeBytes, open: () => source.stream() });
    await this.#file[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#file[Symbol.asyncDispose]();
  }
}
