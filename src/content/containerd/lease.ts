import { randomBytes } from "node:crypto";
import type { Digest } from "../../base/digest.ts";
import { LABELS } from "../../format/containerd/labels.ts";
import { LEASES_SERVICE } from "../../format/containerd/leases-schema.ts";
import type { Containerd } from "./connection.ts";

/** A lease that nobody gives back, its owner having been killed, ends by itself after this. */
const LEASE_MS = 24 * 60 * 60 * 1000;
/** How long containerd may take to collect what a lease had kept. */
const COLLECT_TIMEOUT_MS = 30_000;

/** Keeps what is written over a connection from containerd's garbage collector until the lease is given back. */
export class ContainerdLease implements AsyncDisposable {
  readonly #containerd: Containerd;
  readonly #id = `nydus-${randomBytes(12).toString("hex")}`;
  #made: Promise<unknown> | undefined;
  #isDone = false;

  constructor(containerd: Containerd) {
    this.#containerd = containerd;
  }

  /** Makes the lease at the first call: what the connection makes from then on belongs to it. */
  async hold(): Promise<void> {
    this.#made ??= this.#make();
    await this.#made;
  }

  async #make(): Promise<void> {
    const expires = new Date(Date.now() + LEASE_MS).toISOString();
    await this.#containerd.call(LEASES_SERVICE, "Create", { id: this.#id, labels: { [LABELS.gcExpire]: expires } });
    this.#containerd.setLease(this.#id);
  }

  /** Keeps a blob, whether it is there or is yet to come, and all that its labels name. */
  async addContent(digest: Digest): Promise<void> {
    await this.hold();
    const resource = { id: digest, type: "content" };
    await this.#containerd.call(LEASES_SERVICE, "AddResource", { id: this.#id, resource });
  }

  /** Says that an image names now what was written: nothing is to be collected at once when the lease ends. */
  done(): void {
    this.#isDone = true;
  }

  /** Gives the lease back; what it kept and no image names is collected before this returns. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#made === undefined) return;
    await this.#made.catch(() => undefined); // a lease that came into being all the same must not stay
    this.#containerd.setLease(undefined);
    const request = { id: this.#id, sync: !this.#isDone };
    // Failing here is not worth an error: the lease ends by itself.
    await this.#containerd
      .call(LEASES_SERVICE, "Delete", request, { timeoutMs: COLLECT_TIMEOUT_MS })
      .catch(() => undefined);
  }
}
