import { randomBytes } from "node:crypto";
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Semaphore } from "../../base/async.ts";
import { type Digest, isDigest } from "../../base/digest.ts";
import { asNydusError } from "../../base/errors.ts";
import { processStart } from "../../os/process.ts";
import { lockPath } from "../store/path-lock.ts";
import { namesIn } from "./image-records.ts";
import { makeStoreDir, type StorePaths } from "./paths.ts";

/** A sweep of large caches may hold the store's lock for long. */
const LOCK_WAIT_MS = 120_000;
/** Why there may be no lease: nothing can be written, so whoever sweeps is welcome to make room. */
const UNWRITABLE: readonly string[] = ["ENOSPC", "EPERM"];

const LEASE_FILE = /^\d+-[0-9a-f]{16}\.json$/;

/**
 * What a process uses of the state directory, as a file with its pid and start time: what is named there is not
 * removed while the process lives. It is written under the store's lock, so that whoever sweeps has seen it or has
 * done before.
 */
export class Lease implements AsyncDisposable {
  readonly #paths: StorePaths;
  readonly #path: string;
  readonly #digests = new Set<Digest>();
  readonly #turn = new Semaphore(1);
  #written = false;

  constructor(paths: StorePaths) {
    this.#paths = paths;
    this.#path = join(paths.leases, `${process.pid}-${randomBytes(8).toString("hex")}.json`);
  }

  /** From now on these stay, whether they are there already or come later. @throws ENOSPC, EPERM, EBUSY */
  add(...digests: readonly Digest[]): Promise<void> {
    return this.#turn.hold(async () => {
      const added = digests.filter((digest) => !this.#digests.has(digest));
      if (added.length === 0) return;
      await makeStoreDir(this.#paths.leases);
      await using _lock = await lockPath(this.#paths.dir, "use the image store", LOCK_WAIT_MS);
      await this.#write([...this.#digests, ...added]);
      for (const digest of added) this.#digests.add(digest);
    });
  }

  /** The same for one who only reads: without a place to write he goes on, since what is open stays readable. */
  async addIfWritable(...digests: readonly Digest[]): Promise<void> {
    try {
      await this.add(...digests);
    } catch (error) {
      if (!UNWRITABLE.includes(asNydusError(error).code)) throw error;
    }
  }

  /** A crash of the machine ends the process as well: nothing needs to be durable. */
  async #write(digests: readonly Digest[]): Promise<void> {
    const lease = { pid: process.pid, pidStart: processStart(process.pid) ?? "", digests };
    const staged = `${this.#path}.tmp`;
    this.#written = true;
    try {
      await writeFile(staged, JSON.stringify(lease), { mode: 0o600 });
      await rename(staged, this.#path);
    } catch (error) {
      await rm(staged, { force: true });
      throw asNydusError(error, { path: this.#path });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#written) await rm(this.#path, { force: true });
  }
}

/** What living processes use; leases of dead ones are removed. The caller holds the store's lock. */
export async function leasedDigests(paths: StorePaths): Promise<Set<Digest>> {
  const leased = new Set<Digest>();
  for (const name of await namesIn(paths.leases)) {
    const path = join(paths.leases, name);
    const digests = LEASE_FILE.test(name) ? await readLease(path) : undefined;
    if (digests === undefined) await rm(path, { force: true });
    else for (const digest of digests) leased.add(digest);
  }
  return leased;
}

/** @returns undefined when its process is gone, or there is no lease in the file */
async function readLease(path: string): Promise<readonly Digest[] | undefined> {
  try {
    const { pid, pidStart, digests } = JSON.parse(await readFile(path, "utf8")) as Partial<Record<string, unknown>>;
    if (typeof pid !== "number" || !Array.isArray(digests) || processStart(pid) !== pidStart) return undefined;
    return digests.filter((digest): digest is Digest => typeof digest === "string" && isDigest(digest));
  } catch {
    return undefined; // gone, or damaged: worth as much
  }
}
