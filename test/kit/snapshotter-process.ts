import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type ContainerdMount, decodeMount, SNAPSHOTS_SERVICE } from "../../src/format/containerd/snapshots-schema.ts";
import { GrpcClient, type Message } from "../../src/os/grpc.ts";
import { PROGRAM } from "./program.ts";
import { run } from "./shell.ts";

const START_MS = 20_000;
const END_MS = 20_000;

/** `nydus snapshotter` as a process, and a client of it. */
export class SnapshotterProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #client: GrpcClient;
  readonly #ended: Promise<number>;
  /** Its stderr so far. */
  readonly lines: string[] = [];

  private constructor(child: ChildProcess, address: string) {
    this.#child = child;
    this.#client = new GrpcClient(address);
    this.#ended = new Promise((resolve) => child.on("exit", (status, signal) => resolve(status ?? (signal ? 128 : 0))));
  }

  /** Starts it. @param more arguments @throws when it does not serve */
  static async start(
    { root, address }: { readonly root: string; readonly address: string },
    more: { readonly args?: readonly string[]; readonly env?: Readonly<Record<string, string>> } = {},
  ): Promise<SnapshotterProcess> {
    const args = ["--root", root, "snapshotter", "--address", address, ...(more.args ?? [])];
    const env = { ...process.env, NYDUS_DAEMON_IDLE: "1s", ...more.env };
    const child = spawn(PROGRAM, args, { stdio: ["ignore", "ignore", "pipe"], env });
    const made = new SnapshotterProcess(child, address);
    const output = createInterface({ input: child.stderr as NodeJS.ReadableStream });
    const serves = new Promise<true>((resolve) => {
      output.on("line", (line) => {
        made.lines.push(line);
        if (line.includes(" serves ")) resolve(true);
      });
    });
    const isServing = await Promise.race([
      serves,
      made.#ended.then(() => false),
      Bun.sleep(START_MS).then(() => false),
    ]);
    if (isServing) return made;
    await made[Symbol.asyncDispose]();
    throw new Error(`the snapshotter does not serve: ${made.lines.join("; ")}`);
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Sends a signal and waits for the end. @returns exit status */
  async end(signal: NodeJS.Signals): Promise<number> {
    this.#client[Symbol.dispose]();
    this.#child.kill(signal);
    const status = await Promise.race([this.#ended, Bun.sleep(END_MS).then(() => undefined)]);
    if (status !== undefined) return status;
    this.#child.kill("SIGKILL");
    throw new Error(`the snapshotter does not end: ${this.lines.join("; ")}`);
  }

  call(method: string, request: Message): Promise<Message> {
    return this.#client.call(SNAPSHOTS_SERVICE, method, request);
  }

  async mountsOf(method: "Prepare" | "View" | "Mounts", request: Message): Promise<ContainerdMount[]> {
    return (await this.call(method, request))["mounts"].map(decodeMount);
  }

  /** All snapshots, by their keys. */
  async list(...filters: string[]): Promise<Message[]> {
    const found: Message[] = [];
    for await (const { info } of this.#client.stream(SNAPSHOTS_SERVICE, "List", { filters })) found.push(...info);
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
  }
}

/** Mounts as containerd would. */
export async function mountAt(mounts: readonly ContainerdMount[], dir: string): Promise<void> {
  if (!existsSync(dir)) mkdirSync(dir, { recursive: true });
  for (const { type, source, options } of mounts) {
    // mount(8) makes a read-only bind mount by a second call
    const flags =
      type === "bind" ? ["--rbind", "-o", options.includes("ro") ? "ro" : "rw"] : ["-t", type, "-o", options.join(",")];
    const { status, stderr } = await run("mount", ...flags, source, dir);
    if (status !== 0) throw new Error(`mount ${JSON.stringify(mounts)}: ${stderr}`);
  }
}

/** Unmounts what {@link mountAt} has mounted. */
export async function umountAt(dir: string): Promise<void> {
  const { status, stderr } = await run("umount", dir);
  if (status !== 0) throw new Error(`umount ${join(dir)}: ${stderr}`);
}
