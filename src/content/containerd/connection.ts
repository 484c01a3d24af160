import { connect } from "node:net";
import { NydusError } from "../../base/errors.ts";
import type { ProtoService } from "../../format/containerd/proto.ts";
import { type CallOptions, GrpcClient, type GrpcDuplex, type Message } from "../../os/grpc.ts";
import { throwIfAborted } from "../store/abort.ts";
import type { ContainerdPlace } from "./place.ts";

/** Metadata keys of containerd's API. */
const HEADER = { namespace: "containerd-namespace", lease: "containerd-lease" } as const;

/** How long a call with one answer may take, unless it says otherwise. */
const CALL_TIMEOUT_MS = 60_000;
/** How long a socket may take to be connected to. */
const PROBE_TIMEOUT_MS = 2_000;

/** Containerd's namespaces name directories and buckets (containerd pkg/identifiers). */
const NAMESPACE = /^(?=.{1,76}$)[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$/;

/** Options of a call; the connection adds who calls. */
export type ContainerdCall = Omit<CallOptions, "metadata">;

/** One call of {@link Containerd.duplex}. */
export interface ContainerdDuplex extends Pick<GrpcDuplex, "send" | "receive">, Disposable {}

/** A connection to containerd in one namespace; what it makes may be kept by a lease. Connections to one socket are shared. */
export class Containerd implements Disposable {
  readonly place: ContainerdPlace;
  readonly #client: GrpcClient;
  #lease: string | undefined;

  /** Nothing is connected before the first call. @throws EINVAL a namespace that is none */
  constructor(place: ContainerdPlace) {
    if (!NAMESPACE.test(place.namespace)) {
      const shown = JSON.stringify(place.namespace.slice(0, 80));
      throw new NydusError("EINVAL", `Cannot use containerd: namespace ${shown} is not letters, digits, ".", "_", "-"`);
    }
    this.place = place;
    this.#client = new GrpcClient(place.address);
  }

  /** From now on whatever is made belongs to this lease, or to none. */
  setLease(id: string | undefined): void {
    this.#lease = id;
  }

  /** @throws the error of the status; EIO with what to do when nothing answers; EPERM; ECANCELED; ETIMEDOUT */
  async call(service: ProtoService, name: string, request: Message, options: ContainerdCall = {}): Promise<Message> {
    throwIfAborted(options.signal);
    const { timeoutMs = CALL_TIMEOUT_MS, signal } = options;
    try {
      return await this.#client.call(service, name, request, { ...this.#identity(), timeoutMs, signal });
    } catch (error) {
      throw await this.#explained(error);
    }
  }

  /** @throws as {@link call} */
  async *stream(
    service: ProtoService,
    name: string,
    request: Message,
    options: ContainerdCall = {},
  ): AsyncGenerator<Message> {
    throwIfAborted(options.signal);
    try {
      yield* this.#client.stream(service, name, request, { ...options, ...this.#identity() });
    } catch (error) {
      throw await this.#explained(error);
    }
  }

  /**
   * A call in which both sides send, over a connection of its own, which ends with the call; its failures are told as
   * they are.
   */
  duplex(service: ProtoService, name: string, options: ContainerdCall = {}): ContainerdDuplex {
    throwIfAborted(options.signal);
    const client = new GrpcClient(this.place.address, true);
    const call = client.duplex(service, name, { ...options, ...this.#identity() });
    const dispose = (): void => {
      call[Symbol.dispose]();
      client[Symbol.dispose]();
    };
    return { send: (message) => call.send(message), receive: () => call.receive(), [Symbol.dispose]: dispose };
  }

  #identity(): { readonly metadata: Readonly<Record<string, string>> } {
    const { namespace } = this.place;
    const lease = this.#lease === undefined ? {} : { [HEADER.lease]: this.#lease };
    return { metadata: { [HEADER.namespace]: namespace, ...lease } };
  }

  /** Only when a call has failed is the socket itself asked why. */
  async #explained(error: unknown): Promise<unknown> {
    if (!(error instanceof NydusError) || error.code !== "EIO") return error;
    return (await whyUnreachable(this.place.address)) ?? error;
  }

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
  }
}

/** Why a socket cannot be connected to, as an error that says what to do. @returns undefined when it can be */
async function whyUnreachable(address: string): Promise<NydusError | undefined> {
  const code = await connectFailure(address);
  if (code === undefined) return undefined;
  const place = { path: address };
  if (code === "EACCES" || code === "EPERM") {
    const message =
      "Cannot reach containerd: its socket may not be opened; run as root, or name another with --address";
    return new NydusError("EPERM", message, place);
  }
  const found = code === "ENOENT" ? "there is no such socket" : `its socket does not answer (${code})`;
  const message = `Cannot reach containerd: ${found}; start containerd, or name its socket with --address`;
  return new NydusError("EIO", message, place);
}

/** The code of the system's error when a socket is connected to. @returns undefined when it can be */
async function connectFailure(address: string): Promise<string | undefined> {
  const socket = connect({ path: address });
  try {
    return await new Promise<string | undefined>((resolve) => {
      socket.setTimeout(PROBE_TIMEOUT_MS, () => resolve("ETIMEDOUT"));
      socket.once("connect", () => resolve(undefined));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "EIO"));
    });
  } finally {
    socket.destroy();
  }
}
