import { tmpdir } from "node:os";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { checkMountpoint, findMount } from "../../os/mount.ts";
import { hasLibc } from "../../os/syscall.ts";
import {
  EROFS_TYPE,
  type HandedMount,
  type HostOptions,
  type MountHost,
  type MountKind,
  type MountOptions,
  type MountSession,
  type SessionStats,
} from "./engine.ts";
import { checkForKernel, isCheckQuick } from "./erofs/bootstrap-check.ts";
import { openErofsHost } from "./erofs/engine.ts";
import { type ErofsProbe, probeErofs } from "./erofs/probe.ts";
import { openFuseNativeHost } from "./fuse/native-engine.ts";
import { openFuseHost } from "./fuse/session.ts";
import { DEFAULT_MOUNT_FLAGS, type MountFlags } from "./mount-flags.ts";

/** Failures of one image or its data, for which FUSE is another way. */
const OTHER_WAY: readonly string[] = ["EUCLEAN", "ENOTSUP", "EBUSY"];

/** Mounts by the kernel's EROFS driver where that works, else by FUSE. */
class AutoHost implements MountHost {
  readonly #options: HostOptions;
  readonly #erofs: MountHost;
  #fuse: MountHost | undefined;
  #probe: Promise<ErofsProbe> | undefined;
  #choice: string | undefined;

  constructor(options: HostOptions) {
    this.#options = options;
    this.#erofs = openErofsHost(options);
  }

  /** Without EROFS there is still FUSE. */
  get isBroken(): boolean {
    return this.#fuse?.isBroken ?? false;
  }

  get choice(): string | undefined {
    return this.#choice;
  }

  async mount(options: MountOptions): Promise<MountSession> {
    const mountpoint = checkMountpoint(options.mountpoint);
    if (findMount(mountpoint)?.type === EROFS_TYPE) {
      throw new NydusError("EBUSY", "Cannot mount: an image is mounted there already", { path: mountpoint });
    }
    const { works, why } = await this.#erofsProbe(options.root);
    const found = works ? refusalOf(options.flags) : why;
    if (found !== undefined) return this.#mountByFuse(options, found);
    if (!(await isCheckQuick(options.bootstrap, options.root))) {
      // Nobody waits for the check of a large image; the next mount profits from it.
      void checkForKernel(options.bootstrap, options.root).catch(() => undefined);
      return this.#mountByFuse(options, "its bootstrap is large and has not been checked before");
    }
    try {
      return new ChosenSession(await this.#erofs.mount(options), { engine: "erofs", type: EROFS_TYPE, why });
    } catch (error) {
      const failure = asNydusError(error);
      if (!OTHER_WAY.includes(failure.code) && !this.#erofs.isBroken) throw failure;
      return this.#mountByFuse(options, formatError(failure));
    }
  }

  /** Once a process. */
  async #erofsProbe(root = tmpdir()): Promise<ErofsProbe> {
    await this.#erofs.ready;
    if (this.#erofs.isBroken) return { works: false, why: "it has failed" };
    this.#probe ??= probeErofs(this.#erofs, root).then((probe) => {
      this.#choice = `${probe.works ? "erofs" : "fuse"}: ${probe.why}`;
      this.#options.onChoice?.(`engine ${this.#choice}`);
      return probe;
    });
    return await this.#probe;
  }

  async #mountByFuse(options: MountOptions, why: string): Promise<MountSession> {
    const { subtype } = options.flags ?? DEFAULT_MOUNT_FLAGS;
    if (this.#choice?.endsWith(why) !== true) this.#options.onChoice?.(`engine fuse for ${options.mountpoint}: ${why}`);
    return new ChosenSession(await this.#fuseHost().mount(options), { engine: "fuse", type: `fuse.${subtype}`, why });
  }

  /** By the way that the mount has. */
  async resume(options: MountOptions, mount: HandedMount): Promise<MountSession> {
    const host = mount.data.engine === "erofs" ? this.#erofs : this.#fuseHost();
    if (host.resume !== undefined) return await host.resume(options, mount);
    throw new NydusError("ENOTSUP", "Cannot take mount over: its engine cannot");
  }

  #fuseHost(): MountHost {
    this.#fuse ??= hasLibc() ? openFuseHost(this.#options) : openFuseNativeHost();
    return this.#fuse;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#fuse?.[Symbol.asyncDispose]();
    await this.#erofs[Symbol.asyncDispose]();
  }
}

/** Options that only FUSE has a meaning for. */
function refusalOf(flags: MountFlags | undefined): string | undefined {
  if (flags === undefined) return undefined;
  const { allowOther, fsname, subtype } = flags;
  const isPlain =
    allowOther !== false && fsname === DEFAULT_MOUNT_FLAGS.fsname && subtype === DEFAULT_MOUNT_FLAGS.subtype;
  return isPlain ? undefined : "its mount options are for FUSE";
}

/** A mount that says how it came to be. */
class ChosenSession implements MountSession {
  readonly kind: MountKind;
  readonly #session: MountSession;

  constructor(session: MountSession, kind: MountKind) {
    this.#session = session;
    this.kind = kind;
  }

  get mountpoint(): string {
    return this.#session.mountpoint;
  }

  get done(): Promise<void> {
    return this.#session.done;
  }

  unmount(): Promise<void> {
    return this.#session.unmount();
  }

  stats(): SessionStats {
    return this.#session.stats();
  }

  handOver(): Promise<HandedMount> {
    if (this.#session.handOver !== undefined) return this.#session.handOver();
    throw new NydusError("ENOTSUP", "Cannot hand mount over: its engine cannot");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve(this.#session[Symbol.asyncDispose]());
  }
}

/** Opens the way to mount that fits this machine and each image. */
export function openAutoHost(options: HostOptions = {}): MountHost {
  return new AutoHost(options);
}
