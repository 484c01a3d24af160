import { fstatSync } from "node:fs";
import { Semaphore } from "../../../base/async.ts";
import type { NydusError } from "../../../base/errors.ts";
import type { FanotifyGroup } from "../../../os/fanotify.ts";
import { demandPlaces, type FileUse, MarkedFile } from "./file.ts";
import type { Guardian } from "./guardian.ts";
import type { ErofsWatch } from "./watch.ts";

/** How often it is looked whether files are complete. */
const COMPLETE_MS = 1_000;

/** What marks are made with. */
export interface MarkContext {
  readonly group: FanotifyGroup;
  readonly watch: ErofsWatch;
  readonly guardian: Guardian;
}

/** A use of a marked file, to be given back. */
export interface FileShare {
  readonly file: MarkedFile;
  readonly use: FileUse;
}

/** The data files that this process has marked. */
export class MarkedFiles {
  readonly #context: MarkContext;
  readonly #files = new Map<string, MarkedFile>();
  readonly #byId = new Map<number, MarkedFile>();
  /** One change at a time: what a file's thread, mark and guard know must fit together. */
  readonly #changes = new Semaphore(1);
  readonly #places = demandPlaces();
  readonly #timer: ReturnType<typeof setInterval>;
  #nextId = 1;
  #mayUnmark = true;

  constructor(context: MarkContext) {
    this.#context = context;
    this.#timer = setInterval(() => void this.unmarkComplete(), COMPLETE_MS);
    this.#timer.unref();
  }

  /** Whether marks may go: not while it is not known what all mounts need, or another process serves them. */
  set mayUnmark(may: boolean) {
    this.#mayUnmark = may;
  }

  all(): Iterable<MarkedFile> {
    return this.#files.values();
  }

  /** Marks and locks are another process's from now on: nothing is undone any more. */
  leave(): void {
    this.close();
    for (const file of this.#files.values()) file.leave();
  }

  find(id: number): MarkedFile | undefined {
    return this.#byId.get(id);
  }

  /**
   * Has the kernel ask about a device's file from now on.
   * @param fd of the device
   * @param isHanded the file is marked already, and `fd` from before that
   * @throws as {@link MarkedFile}
   */
  acquire(fd: number, use: FileUse, isHanded = false): Promise<FileShare> {
    return this.#changes.hold(async () => {
      const { guardian, watch } = this.#context;
      const file = this.#fileOf(fd);
      file.uses.add(use);
      try {
        guardian.hold(file.fd, file.dataEnd);
        await watch.watch(file.watched());
        if (isHanded) file.markAgain();
        else file.mark(fd);
      } catch (error) {
        await this.#remove({ file, use });
        throw error;
      }
      return { file, use };
    });
  }

  /** A mount's file system is gone. */
  release(share: FileShare): Promise<void> {
    return this.#changes.hold(() => this.#remove(share));
  }

  /** A mount is given up while its file system may still be read: what is not ready fails. @returns its place */
  abandon({ file, use }: FileShare): Promise<FileShare> {
    return this.#changes.hold(async () => {
      const abandoned = { ...use, device: undefined };
      file.uses.delete(use);
      file.uses.add(abandoned);
      return { file, use: abandoned };
    });
  }

  /** Takes marks away that are of no use any more. */
  unmarkComplete(): Promise<void> {
    return this.#changes.hold(async () => {
      for (const file of this.#files.values()) if (this.#mayUnmark) await file.unmarkIfComplete();
    });
  }

  reportAll(error: NydusError): void {
    for (const file of this.#files.values()) file.report(error);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #fileOf(fd: number): MarkedFile {
    const key = keyOf(fd);
    const known = this.#files.get(key);
    if (known !== undefined) return known;
    const file = new MarkedFile(this.#nextId++, fd, { group: this.#context.group, places: this.#places });
    this.#files.set(key, file);
    this.#byId.set(file.id, file);
    return file;
  }

  async #remove({ file, use }: FileShare): Promise<void> {
    const { guardian, watch } = this.#context;
    file.uses.delete(use);
    if (file.uses.size > 0) {
      await watch.watch(file.watched()).catch(() => undefined); // a broken thread knows nothing any more
      return;
    }
    await watch.forget(file.id);
    guardian.drop(file.fd);
    this.#files.delete(keyOf(file.fd));
    this.#byId.delete(file.id);
    if (this.#mayUnmark) file.close();
    else file.leave(); // what another process has marked, or mounts that are not known yet need it
  }
}

function keyOf(fd: number): string {
  const { dev, ino } = fstatSync(fd);
  return `${dev}:${ino}`;
}
