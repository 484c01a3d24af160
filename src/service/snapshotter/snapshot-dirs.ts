import {
  chmodSync,
  closeSync,
  fsyncSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { syncDirectoryNow } from "../../content/store/file-io.ts";
import { readMountInfo } from "../../os/mount.ts";
import type { Snapshot } from "./snapshot.ts";
import { formatRecord, parseRecord } from "./snapshot-record.ts";

/** Who owns a directory. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** What is found of a snapshot's directory: its record, why it cannot be read, or neither where it was never finished. */
export interface FoundDir {
  readonly id: number;
  readonly snapshot?: Snapshot;
  readonly damage?: NydusError;
}

const RECORD = "snapshot.json";
/** SHA-256 of the bootstrap in `fs`, hex, in a file beside it. */
const BOOTSTRAP_DIGEST = "bootstrap.sha256";
const SHA256 = /^[0-9a-f]{64}$/;
/** The root of every layer, as the unpacker wants it, and overlay's own directory beside it. */
const FS_MODE = 0o755;
const WORK_MODE = 0o711;
const PRIVATE_MODE = 0o700;
const ID = /^[1-9]\d{0,15}$/;
/** Would end a directory's name within the options of an overlay mount. */
const OPTION_SEPARATORS = /[:,\\]/;

/**
 * The directories of snapshots: `snapshots/<id>` has the record `snapshot.json`, the files `fs`, overlay's `work` of
 * those that are written to, and `mnt` where a Nydus image is mounted, with its bootstrap's digest in `bootstrap.sha256`. What is removed moves to `removed` at once and
 * is deleted from there; what cannot be understood is kept in `damaged`.
 */
export class SnapshotDirs {
  readonly #snapshots: string;
  readonly #removed: string;
  readonly #damaged: string;

  /** @param root directory of the snapshotter, which is made @throws EINVAL overlay could not name it; EPERM, EIO */
  constructor(root: string) {
    if (OPTION_SEPARATORS.test(root)) {
      throw new NydusError("EINVAL", "Cannot keep snapshots: the path has one of : , \\ which overlayfs cannot take", {
        path: root,
      });
    }
    mkdirSync(root, { recursive: true, mode: PRIVATE_MODE });
    const base = realpathSync(root); // the kernel lists mounts by their real paths
    this.#snapshots = join(base, "snapshots");
    this.#removed = join(base, "removed");
    this.#damaged = join(base, "damaged");
    for (const dir of [this.#snapshots, this.#removed, this.#damaged]) {
      mkdirSync(dir, { recursive: true, mode: PRIVATE_MODE });
    }
  }

  fsDir(id: number): string {
    return join(this.#snapshots, String(id), "fs");
  }

  workDir(id: number): string {
    return join(this.#snapshots, String(id), "work");
  }

  /** Where the image whose bootstrap a snapshot holds is mounted. */
  mountpoint(id: number): string {
    return join(this.#snapshots, String(id), "mnt");
  }

  /**
   * Makes the directories of a new snapshot, its record first: a directory without one was never finished.
   * @param owner of `fs`, where it is not who runs this
   */
  make(snapshot: Snapshot, owner: Owner | undefined): void {
    const dir = join(this.#snapshots, String(snapshot.id));
    if (exists(dir)) this.retire(snapshot.id); // left by a transaction that was undone with its id
    mkdirSync(dir, { mode: PRIVATE_MODE });
    this.#stage(snapshot);
    makeDir(this.fsDir(snapshot.id), FS_MODE);
    if (owner !== undefined) lchownSync(this.fsDir(snapshot.id), owner.uid, owner.gid);
    if (snapshot.kind === "active") makeDir(this.workDir(snapshot.id), WORK_MODE);
    syncDirectoryNow(dir);
    syncDirectoryNow(this.#snapshots);
  }

  /** Replaces the record of a snapshot; durable when this returns. */
  write(snapshot: Snapshot): void {
    this.#stage(snapshot);
    syncDirectoryNow(join(this.#snapshots, String(snapshot.id)));
  }

  /** The same, but for the name of the file. */
  #stage(snapshot: Snapshot): void {
    stageFile(join(this.#snapshots, String(snapshot.id), RECORD), formatRecord(snapshot));
  }

  /** Keeps what the bootstrap in a snapshot is; durable when this returns. @param sha256 hex */
  keepBootstrapDigest(id: number, sha256: string): void {
    stageFile(join(this.#snapshots, String(id), BOOTSTRAP_DIGEST), `${sha256}\n`);
    syncDirectoryNow(join(this.#snapshots, String(id)));
  }

  /** What {@link keepBootstrapDigest} has kept, or undefined. @throws EUCLEAN it is damaged; EIO */
  bootstrapDigest(id: number): string | undefined {
    const path = join(this.#snapshots, String(id), BOOTSTRAP_DIGEST);
    let sha256: string;
    try {
      sha256 = readFileSync(path, "utf8").trimEnd();
    } catch (error) {
      if ((error as { code?: unknown }).code === "ENOENT") return undefined;
      throw asNydusError(error, { path });
    }
    if (SHA256.test(sha256)) return sha256;
    throw new NydusError("EUCLEAN", "Cannot mount image: the digest that was kept of its bootstrap is damaged", {
      path,
    });
  }

  /** Owner of what a snapshot holds. @throws ENOENT */
  ownerOf(id: number): Owner {
    const { uid, gid } = lstatSync(this.fsDir(id));
    return { uid, gid };
  }

  /** Takes a snapshot's record away, so that nobody takes its directory for a snapshot any more. */
  forget(id: number): void {
    rmSync(join(this.#snapshots, String(id), RECORD), { force: true });
  }

  /** Takes a directory out of the snapshots; {@link deleteRetired} deletes it. Done when there is none. */
  retire(id: number): void {
    moveAside(join(this.#snapshots, String(id)), this.#removed, id);
  }

  /** Keeps a directory that is no snapshot out of the way, whatever it holds. */
  setAside(id: number): void {
    moveAside(join(this.#snapshots, String(id)), this.#damaged, id);
  }

  /** Numbers of the directories that there are, the lowest first. */
  ids(): number[] {
    return readdirSync(this.#snapshots)
      .filter((name) => ID.test(name))
      .map(Number)
      .sort((a, b) => a - b);
  }

  /** Reads a directory's record. */
  read(id: number): FoundDir {
    const path = join(this.#snapshots, String(id), RECORD);
    try {
      return { id, snapshot: parseRecord(readFileSync(path, "utf8"), id) };
    } catch (error) {
      if ((error as { code?: unknown }).code === "ENOENT") return { id };
      return { id, damage: asNydusError(error, { path }) };
    }
  }

  /** Whether anything is mounted in a snapshot's directory. */
  hasMounts(id: number): boolean {
    return hasMountsBelow(join(this.#snapshots, String(id)));
  }

  /**
   * Deletes what has been retired. Mounts are never entered.
   * @param failed is told what stays
   * @param signal ends it behind the directory that it is at
   */
  async deleteRetired(failed: (error: NydusError) => void, signal: AbortSignal): Promise<void> {
    for (const name of readdirSync(this.#removed)) {
      if (signal.aborted) return;
      const path = join(this.#removed, name);
      try {
        if (hasMountsBelow(path)) throw new NydusError("EBUSY", "Cannot delete snapshot: something is mounted in it");
        await rm(path, { recursive: true, force: true });
      } catch (error) {
        failed(asNydusError(error, { path }));
      }
    }
  }
}

/** Replaces a file, durably but for its name. */
function stageFile(path: string, content: string): void {
  const staged = `${path}.new`;
  inPlace({ path }, () => {
    const fd = openSync(staged, "w", 0o600);
    try {
      writeSync(fd, content);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(staged, path);
  });
}

function hasMountsBelow(dir: string): boolean {
  return readMountInfo().some(({ mountpoint }) => mountpoint.startsWith(`${dir}/`));
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Makes a directory of just this mode, whatever the umask. */
function makeDir(path: string, mode: number): void {
  mkdirSync(path);
  chmodSync(path, mode);
}

/** Moves a directory under a name that is free there. */
function moveAside(from: string, folder: string, id: number): void {
  for (let attempt = 0; ; attempt++) {
    const to = join(folder, attempt === 0 ? `${id}` : `${id}-${attempt}`);
    if (exists(to)) continue;
    try {
      renameSync(from, to);
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ENOENT") throw asNydusError(error, { path: from });
    }
    return;
  }
}
