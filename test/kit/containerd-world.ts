import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { SNAPSHOTS_SERVICE } from "../../src/format/containerd/snapshots-schema.ts";
import { GrpcClient, type Message } from "../../src/os/grpc.ts";
import { startSleeper } from "./container-tree.ts";
import { ContainerdHost } from "./containerd.ts";
import { chainOf, isNydus } from "./containerd-chains.ts";
import { cachesOf, haveDirectories, ModelError, remainsOf } from "./containerd-disk.ts";
import { GOLDEN_IMAGES, type GoldenImage, goldenTree, pushGolden } from "./containerd-images.ts";
import { type DockerRegistry, startDockerRegistry } from "./docker-registry.ts";
import type { Containerd } from "./peers.ts";
import type { Random } from "./random.ts";
import type { CommandResult } from "./shell.ts";

/** A read that says nothing for so long hangs: a mount's own deadline is shorter. */
const READ_MS = 60_000;
const SETTLE_MS = 20_000;
const POLL_MS = 50;
const LOOKS = 5;
/** How long what has been read may not be durable: the daemon makes it so every 2 s. */
const DURABLE_MS = 6_000;
/** A snapshot that only shows that one can be made. */
export const PROBE = "probe";
const IDLE_DAEMON = "1s";
/** What containers of a test write, and where. */
const NOTE = "/data/note";
/** Where programs in them write digests: in memory. */
const SUM = "/dev/shm/sum";
/** What starting a container reads of its image. */
const READ_BY_START = "/etc/passwd";

/** A container as the model knows it. */
export interface ModelContainer {
  readonly id: string;
  readonly image: GoldenImage;
  isRunning: boolean;
  /** What it has written to a file of its own. */
  note: string | undefined;
}

/** Files that are compared, with their digests. */
const FILES: ReadonlyMap<string, string> = new Map(
  goldenTree()
    .filter(({ path }) => /^[\x20-\x5b\x5d-\x7e]+$/.test(path))
    .flatMap(({ path, sha256 }) => (sha256 === undefined ? [] : [[path, sha256] as const])),
);

/**
 * A containerd with images and containers, and what is known of them without asking it: which images it has, which
 * containers run and what they must read. Every method is one change and says when the world does not follow.
 */
export class ContainerdWorld implements AsyncDisposable {
  readonly host: ContainerdHost;
  readonly registry: DockerRegistry;
  isRegistryUp = true;
  /** Images that have been pulled, and not removed. */
  readonly pulled = new Set<GoldenImage>();
  readonly containers = new Map<string, ModelContainer>();
  /** Files of Nydus images that must be readable without a registry, with the time at which they were first read. */
  readonly #cached = new Map<GoldenImage, Map<string, number>>();
  /** Files of cached blobs, as they were when last looked at. */
  readonly #caches = new Map<GoldenImage, readonly string[]>();
  #isSnapshotterUp = true;
  /** Reads that were compared. */
  reads = 0;

  private constructor(host: ContainerdHost, registry: DockerRegistry) {
    this.host = host;
    this.registry = registry;
  }

  static async open(containerd: Containerd): Promise<ContainerdWorld> {
    process.env["NYDUS_DAEMON_IDLE"] = IDLE_DAEMON;
    const registry = await startDockerRegistry();
    try {
      for (const name of GOLDEN_IMAGES) await pushGolden(registry.host, name);
      return new ContainerdWorld(await ContainerdHost.start(containerd), registry);
    } catch (error) {
      await registry[Symbol.asyncDispose]();
      throw error;
    }
  }

  reference(image: GoldenImage): string {
    return `${this.registry.host}/golden:${image}`;
  }

  isUsed(image: GoldenImage): boolean {
    return [...this.containers.values()].some((container) => container.image === image);
  }

  async setRegistry(isUp: boolean): Promise<void> {
    if (isUp === this.isRegistryUp) return;
    await (isUp ? this.registry.start() : this.registry.stop());
    this.isRegistryUp = isUp;
  }

  async pull(image: GoldenImage): Promise<void> {
    const result = await this.host.nerdctl("pull", "-q", this.reference(image));
    this.#expect(result, this.isRegistryUp, `pull ${image}`);
    if (this.isRegistryUp) this.pulled.add(image);
  }

  /** Whether a new container of an image can be started with what is here. */
  canStart(image: GoldenImage): boolean {
    return this.pulled.has(image) && this.canReadForStart(image);
  }

  canReadForStart(image: GoldenImage): boolean {
    return this.canRead(image, READ_BY_START);
  }

  canRead(image: GoldenImage, path: string): boolean {
    return !isNydus(image) || this.isRegistryUp || this.#cachedOf(image).has(path);
  }

  async run(image: GoldenImage): Promise<ModelContainer> {
    const id = await startSleeper(this.host, this.reference(image));
    const container = { id, image, isRunning: true, note: undefined };
    this.containers.set(id, container);
    this.#noteRead(image, READ_BY_START);
    return container;
  }

  async start(container: ModelContainer): Promise<void> {
    await this.host.ok("nerdctl", "start", container.id);
    container.isRunning = true;
    this.#noteRead(container.image, READ_BY_START);
  }

  async kill(container: ModelContainer): Promise<void> {
    await this.host.ok("nerdctl", "kill", container.id);
    container.isRunning = false;
    await this.#until(`container ${container.id} ends`, () => this.pidOf(container) === undefined);
  }

  async remove({ id, image }: ModelContainer): Promise<void> {
    await this.host.ok("nerdctl", "rm", "-f", id);
    this.containers.delete(id);
    this.#forgetUnused(image);
  }

  /** Writes into a container's own layer. */
  async write(container: ModelContainer, text: string): Promise<void> {
    const command = ["/busybox", "sh", "-c", `echo ${text} >${NOTE}`];
    const result = await this.host.nerdctl("exec", container.id, ...command);
    this.#expect(result, true, `write ${text} in ${container.id}`);
    if (result.status === 0) container.note = text;
  }

  /** Lets a program in a container read a file. nerdctl 2.0.4 now and then loses what one prints: it goes to a file. */
  async exec(container: ModelContainer, random: Random): Promise<void> {
    const path = random.pick([...FILES.keys()]);
    const command = ["/busybox", "sh", "-c", `/busybox sha256sum "$1" >${SUM}`, "sh", path];
    const { status, stderr } = await this.host.nerdctl("exec", container.id, ...command);
    const sum = status === 0 ? await readFile(`/proc/${this.pidOf(container)}/root${SUM}`, "utf8") : "";
    this.#judge(container, path, /^\\?([0-9a-f]{64}) /.exec(sum)?.[1] ?? `status ${status}: ${stderr}${sum}`);
  }

  /** `nerdctl rmi`, which refuses while there are containers; or containerd's own removal, which never does. */
  async removeImage(image: GoldenImage, how: "rmi" | "untag"): Promise<void> {
    if (how === "untag") await this.host.ok("ctr", "images", "rm", "--sync", this.reference(image));
    else {
      const result = await this.host.nerdctl("rmi", this.reference(image));
      this.#expect(result, !this.isUsed(image), `rmi ${image}`);
      if (result.status !== 0) return;
    }
    this.pulled.delete(image);
    this.#forgetUnused(image);
  }

  #forgetUnused(image: GoldenImage): void {
    if (!this.pulled.has(image) && !this.isUsed(image)) this.#cached.delete(image);
  }

  /** Ends the snapshotter. @returns its exit status; null after SIGKILL */
  async stopSnapshotter(signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    this.#isSnapshotterUp = false;
    return await this.host.stop("snapshotter", signal);
  }

  /** Starts it, unless it runs, and waits until containerd has found it. */
  async startSnapshotter(): Promise<void> {
    if (this.#isSnapshotterUp) return;
    await this.host.startSnapshotter();
    this.#isSnapshotterUp = true;
    // What containerd answers from its own database says nothing.
    const snapshots = ["snapshots", "--snapshotter", "nydus"];
    for (let waited = 0; waited < SETTLE_MS; waited += POLL_MS) {
      if ((await this.host.ctr(...snapshots, "prepare", PROBE)).status === 0) {
        await this.host.ok("ctr", ...snapshots, "rm", PROBE);
        return;
      }
      await Bun.sleep(POLL_MS);
    }
    throw new ModelError(`containerd does not find the snapshotter: ${this.host.log("containerd")}`);
  }

  async restart(server: "containerd" | "snapshotter", signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    if (server === "snapshotter") {
      await this.stopSnapshotter(signal);
      return await this.startSnapshotter();
    }
    await this.host.stop("containerd", signal);
    await this.host.startContainerd();
  }

  /**
   * Kills the process that serves the mounts, if there is one; another one goes on. What it has read lately is not
   * durable, and read again.
   * @param how with its holder no other one comes
   */
  async killDaemon(how: "alone" | "with holder" = "alone"): Promise<void> {
    const { stdout, status } = await this.host.nydus("--root", this.host.root, "daemon", "status", "--json");
    if (status !== 0) return;
    try {
      if (how === "with holder") await this.#killHolder();
      process.kill((JSON.parse(stdout) as { pid: number }).pid, "SIGKILL");
    } catch {
      return; // it was idle, and has ended
    }
    this.daemonDied();
  }

  async #killHolder(): Promise<void> {
    const { stdout } = await this.host.nydus("--root", this.host.root, "mounts", "--json");
    const holders = (JSON.parse(stdout) as { holder?: { pid: number } }[]).map(({ holder }) => holder?.pid);
    for (const pid of new Set(holders)) if (pid !== undefined) process.kill(pid, "SIGKILL");
  }

  daemonDied(): void {
    const durable = Date.now() - DURABLE_MS;
    for (const cached of this.#cached.values()) {
      for (const [path, readMs] of [...cached]) if (readMs > durable) cached.delete(path);
    }
  }

  async cleanup(): Promise<void> {
    await this.#call("Cleanup", {});
  }

  /**
   * Waits for a change and for a death amid it, and asks then what has become of both: nobody knows which came first.
   * @param change its failure is no failure
   * @param death kills a process, and starts it again
   * @param touched whom the change may have left half removed
   */
  async settle(change: Promise<unknown>, death: Promise<void>, touched?: ModelContainer): Promise<void> {
    await Promise.allSettled([change]);
    await death;
    const images = (await this.host.ok("ctr", "images", "ls", "-q")).split("\n");
    for (const image of GOLDEN_IMAGES.filter((one) => !images.includes(this.reference(one)))) this.pulled.delete(image);
    for (const image of GOLDEN_IMAGES.filter((one) => images.includes(this.reference(one)))) {
      if (!this.pulled.has(image)) await this.pull(image);
    }
    if (touched !== undefined) this.containers.delete(touched.id);
    const ids = (await this.host.ok("ctr", "containers", "ls", "-q")).split("\n").filter(Boolean);
    for (const id of ids.filter((one) => !this.containers.has(one))) await this.host.ok("nerdctl", "rm", "-f", id);
    for (const image of GOLDEN_IMAGES) this.#forgetUnused(image);
  }

  // ---- what must hold

  /** Compares what containers read from their images, and what they wrote, from outside; and what is on the disk. */
  async check(random: Random): Promise<void> {
    for (const container of this.containers.values()) {
      if (container.isRunning) await this.#checkReads(container, random);
    }
    // containerd removes what it has no use for while we look
    const tops = [...this.containers.keys(), ...[...this.pulled].map(chainOf)];
    for (let looks = LOOKS; !(await haveDirectories(this.host, tops)); looks--) {
      if (looks === 0) throw new ModelError("there are snapshots without directories");
    }
    this.#checkCaches();
  }

  async #checkReads(container: ModelContainer, random: Random): Promise<void> {
    const readable = [...FILES.keys()].filter((path) => this.canRead(container.image, path));
    if (readable.length > 0) {
      const path = random.pick(readable);
      this.#judge(container, path, await this.#digestFrom(container, path));
    }
    if (container.note === undefined) return;
    const digest = createHash("sha256").update(`${container.note}\n`).digest("hex");
    const found = await this.#digestFrom(container, NOTE);
    if (found !== digest) throw new ModelError(`${container.id} does not read what it wrote: ${found}`);
  }

  /** @returns a file's digest in a container's root; what went wrong */
  async #digestFrom(container: ModelContainer, path: string): Promise<string> {
    const pid = this.pidOf(container);
    if (pid === undefined) throw new ModelError(`container ${container.id} of ${container.image} does not run`);
    const late = Bun.sleep(READ_MS).then(() => Promise.reject(new Error("nothing is read, and no error is given")));
    try {
      const bytes = await Promise.race([readFile(`/proc/${pid}/root${path}`), late]);
      return createHash("sha256").update(bytes).digest("hex");
    } catch (error) {
      return String(error);
    }
  }

  /** @param found a digest, or an error where that is allowed */
  #judge(container: ModelContainer, path: string, found: string): void {
    const { image } = container;
    if (found === FILES.get(path)) {
      this.reads++;
      this.#noteRead(image, path);
      return;
    }
    const isDigest = /^[0-9a-f]{64}$/.test(found);
    if (!isDigest && isNydus(image) && !this.canRead(image, path)) return;
    const state = `readable: ${this.canRead(image, path)}, registry: ${this.isRegistryUp}`;
    throw new ModelError(`${container.id} of ${image} reads ${path} as ${found} (${state})`);
  }

  /** A blob that is cached stays so while there is an image that needs it. */
  #checkCaches(): void {
    const needed = GOLDEN_IMAGES.filter((image) => this.pulled.has(image) || this.isUsed(image));
    for (const image of this.#caches.keys()) if (!needed.includes(image)) this.#caches.delete(image);
    for (const image of needed) {
      const found = cachesOf(this.host, image);
      const lost = (this.#caches.get(image) ?? []).filter((name) => !found.includes(name));
      if (lost.length > 0) throw new ModelError(`caches of ${image} are gone: ${lost.join(", ")}`);
      this.#caches.set(image, found);
    }
  }

  /** Removes everything, and waits until nothing is left but the two servers. */
  async end(): Promise<void> {
    for (const container of [...this.containers.values()]) await this.remove(container);
    for (const image of [...this.pulled]) await this.removeImage(image, "rmi");
    // Pulls that died have left theirs, and what was pulled stays for a day with them.
    const leases = await this.host.listed("leases", "ls", "-q");
    for (const lease of leases) await this.host.ok("ctr", "leases", "rm", "--sync", lease);
    await this.host.nerdctl("image", "prune", "-a", "-f");
    await this.host.endLost();
    // What a process that is just dying holds goes with the next one, as after each of containerd's collections.
    await this.#until("everything is gone", async () => {
      await this.cleanup();
      return this.remains().length === 0;
    });
  }

  /** What is there though nothing needs it, when there are neither images nor containers. */
  remains(): string[] {
    return remainsOf(this.host);
  }

  /** Process of a running container, from the bundle that its shim wrote. */
  pidOf({ id }: ModelContainer): number | undefined {
    const path = join(this.host.rootfsOf(id), "..", "init.pid");
    const pid = existsSync(path) ? Number(readFileSync(path, "utf8")) : 0;
    return pid > 0 && existsSync(`/proc/${pid}/root/busybox`) ? pid : undefined;
  }

  #cachedOf(image: GoldenImage): Map<string, number> {
    const found = this.#cached.get(image) ?? new Map();
    this.#cached.set(image, found);
    return found;
  }

  #noteRead(image: GoldenImage, path: string): void {
    const cached = this.#cachedOf(image);
    if (!cached.has(path)) cached.set(path, Date.now());
  }

  #expect({ status, stderr }: CommandResult, succeeds: boolean, what: string): void {
    if ((status === 0) === succeeds) return;
    const logs = `snapshotter: ${this.host.log("snapshotter")}\ncontainerd: ${this.host.log("containerd")}`;
    throw new ModelError(`${what} ${succeeds ? "fails" : "does not fail"}: ${stderr}\n${logs}`);
  }

  async #until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    for (let waited = 0; waited < SETTLE_MS; waited += POLL_MS) {
      if (await holds()) return;
      await Bun.sleep(POLL_MS);
    }
    throw new ModelError(`not so after ${SETTLE_MS} ms: ${what}; there remain ${this.remains().join(", ")}`);
  }

  async #call(method: string, request: Message): Promise<Message> {
    using client = new GrpcClient(this.host.snapshotterAddress);
    return await client.call(SNAPSHOTS_SERVICE, method, request);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.host[Symbol.asyncDispose]();
    await this.registry[Symbol.asyncDispose]();
  }
}
