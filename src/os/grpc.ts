import { mkdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import * as grpc from "@grpc/grpc-js";
import protobuf from "protobufjs/light.js";
import { asNydusError, ERROR_CODES, type ErrorCode, NydusError } from "../base/errors.ts";
import type { ProtoService } from "../format/containerd/proto.ts";

/** A message as plain fields: 64-bit numbers as number, bytes as Uint8Array, all fields that are not messages present. */
// biome-ignore lint/suspicious/noExplicitAny: fields are checked by those who read them
export type Message = Record<string, any>;

/** What a method is called with besides its request. */
export interface CallContext {
  /** Aborted when the caller gives up, its deadline passes or its connection breaks. */
  readonly signal: AbortSignal;
  /** First value of a metadata key (lower case), such as `containerd-namespace`. */
  metadata(key: string): string | undefined;
}

/** Answers one method: one message, or many where the method streams its answer. */
export type Handler = (request: Message, context: CallContext) => Promise<Message> | AsyncIterable<Message>;

/** A service and what answers its methods, by their names. */
export interface ServedService {
  readonly service: ProtoService;
  readonly handlers: Readonly<Record<string, Handler>>;
}

/** Most bytes of a message, as containerd's own default. */
const MESSAGE_LIMIT_BYTES = 16 << 20;
const CHANNEL_OPTIONS = {
  "grpc.max_receive_message_length": MESSAGE_LIMIT_BYTES,
  "grpc.max_send_message_length": MESSAGE_LIMIT_BYTES,
} as const;

const TO_OBJECT = { longs: Number, defaults: true, arrays: true, objects: true } as const;

function serializerOf(type: protobuf.Type): (value: Message) => Buffer {
  return (value) => Buffer.from(type.encode(type.fromObject(value)).finish());
}

function deserializerOf(type: protobuf.Type): (bytes: Buffer) => Message {
  return (bytes) => type.toObject(type.decode(bytes), TO_OBJECT);
}

/** The methods of a service as grpc-js wants them. */
function definitionOf(service: ProtoService): grpc.ServiceDefinition {
  const root = protobuf.Root.fromJSON(service.schema as protobuf.INamespace);
  return Object.fromEntries(
    Object.entries(service.methods).map(([name, method]) => {
      const [request, response] = [root.lookupType(method.request), root.lookupType(method.response)];
      return [
        name,
        {
          path: `/${service.name}/${name}`,
          requestStream: method.requestStream ?? false,
          responseStream: method.responseStream ?? false,
          requestSerialize: serializerOf(request),
          requestDeserialize: deserializerOf(request),
          responseSerialize: serializerOf(response),
          responseDeserialize: deserializerOf(response),
        },
      ];
    }),
  );
}

/** Our error for a status code; the table is that of `ERROR_CODES`, the first row of a code wins. */
const CODES_BY_GRPC = new Map<number, ErrorCode>(
  (Object.entries(ERROR_CODES) as [ErrorCode, { readonly grpc: number }][])
    .map(([code, row]) => [row.grpc, code] as const)
    .reverse(),
);

/** What a peer's failure says, as our error. */
function fromStatus({ code, details }: grpc.ServiceError | grpc.StatusObject, url: string): NydusError {
  return new NydusError(CODES_BY_GRPC.get(code) ?? "EIO", details === "" ? `gRPC status ${code}` : details, { url });
}

function toStatus(error: unknown): Partial<grpc.StatusObject> {
  const { code, message } = asNydusError(error);
  return { code: ERROR_CODES[code].grpc, details: message };
}

type ServerCall = grpc.ServerUnaryCall<Message, Message> | grpc.ServerWritableStream<Message, Message>;

function contextOf(call: ServerCall): CallContext {
  const controller = new AbortController();
  (call as grpc.ServerUnaryCall<Message, Message>).on("cancelled", () =>
    controller.abort(new NydusError("ECANCELED", "The caller gave up")),
  );
  return { signal: controller.signal, metadata: (key) => call.metadata.get(key)[0]?.toString() };
}

function unaryHandler(handler: Handler): grpc.handleUnaryCall<Message, Message> {
  return (call, done) => {
    Promise.resolve()
      .then(() => handler(call.request, contextOf(call)) as Promise<Message>)
      .then(
        (answer) => done(null, answer),
        (error: unknown) => done(toStatus(error)),
      );
  };
}

function streamHandler(handler: Handler): grpc.handleServerStreamingCall<Message, Message> {
  return (call) => {
    void sendAll(call, handler(call.request, contextOf(call)) as AsyncIterable<Message>);
  };
}

async function sendAll(
  call: grpc.ServerWritableStream<Message, Message>,
  answers: AsyncIterable<Message>,
): Promise<void> {
  let goOn: () => void = () => undefined;
  call.on("drain", () => goOn());
  call.on("cancelled", () => goOn());
  try {
    for await (const answer of answers) {
      if (call.cancelled) return;
      if (call.write(answer)) continue;
      await new Promise<void>((resolve) => {
        goOn = resolve;
      });
    }
    call.end();
  } catch (error) {
    call.emit("error", toStatus(error));
  }
}

/** Services on a unix socket. */
export interface GrpcServer {
  /**
   * Takes no more calls, waits for those under way, and removes the socket.
   * @param timeoutMs 5 s unless given; calls that are left then are ended, and their handlers told
   */
  close(timeoutMs?: number): Promise<void>;
}

const CLOSE_TIMEOUT_MS = 5_000;

/**
 * Serves gRPC on a unix socket, which a server that is gone may have left there.
 * Whoever calls makes sure that no other server of this socket lives.
 * @throws EIO, EPERM the socket cannot be made
 */
export async function serveGrpc(socketPath: string, services: readonly ServedService[]): Promise<GrpcServer> {
  const server = new grpc.Server(CHANNEL_OPTIONS);
  for (const { service, handlers } of services) {
    const definition = definitionOf(service);
    const made = Object.entries(definition).map(([name, { responseStream }]) => {
      const handler = handlers[name] ?? unimplemented(name);
      return [name, responseStream ? streamHandler(handler) : unaryHandler(handler)];
    });
    server.addService(definition, Object.fromEntries(made));
  }
  mkdirSync(dirname(socketPath), { recursive: true });
  rmSync(socketPath, { force: true });
  await new Promise<void>((resolve, reject) => {
    const failed = (cause: Error): NydusError =>
      new NydusError("EIO", `Cannot listen: ${cause.message}`, { path: socketPath }, { cause });
    server.bindAsync(`unix:${socketPath}`, grpc.ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(failed(error)),
    );
  });
  return { close: (timeoutMs = CLOSE_TIMEOUT_MS) => closeServer(server, { socketPath, timeoutMs }) };
}

function unimplemented(name: string): Handler {
  return async () => {
    throw new NydusError("ENOTSUP", `Cannot call ${name}: it is not served here`);
  };
}

async function closeServer(
  server: grpc.Server,
  { socketPath, timeoutMs }: { readonly socketPath: string; readonly timeoutMs: number },
): Promise<void> {
  const force = setTimeout(() => server.forceShutdown(), timeoutMs);
  await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  clearTimeout(force);
  rmSync(socketPath, { force: true });
}

/** How a call is made. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Until the answer, or the end of the stream. */
  readonly timeoutMs?: number | undefined;
}

/** Calls services over one connection, which is made at the first call and made again when it broke. */
export class GrpcClient implements Disposable {
  readonly #client: grpc.Client;
  readonly #url: string;
  readonly #definitions = new Map<ProtoService, grpc.ServiceDefinition>();
  /** Calls under way: closing the connection alone would leave them to themselves. */
  readonly #calls = new Set<{ cancel(): void }>();

  /**
   * @param socketPath of the unix socket
   * @param isAlone whether the connection is its own; else clients of one socket share one
   */
  constructor(socketPath: string, isAlone = false) {
    this.#url = `unix://${socketPath}`;
    const options = { ...CHANNEL_OPTIONS, "grpc.use_local_subchannel_pool": isAlone ? 1 : 0 };
    this.#client = new grpc.Client(`unix:${socketPath}`, grpc.credentials.createInsecure(), options);
  }

  #method(service: ProtoService, name: string): grpc.MethodDefinition<Message, Message> {
    const definition = this.#definitions.get(service) ?? definitionOf(service);
    this.#definitions.set(service, definition);
    const method = definition[name];
    if (method === undefined) throw new NydusError("EFAULT", `Cannot call ${service.name}: it has no ${name}`);
    return method;
  }

  /** Calls a method with one request and one answer. @throws the error of the status; ECANCELED; ETIMEDOUT */
  call(service: ProtoService, name: string, request: Message, options: CallOptions = {}): Promise<Message> {
    const { path, requestSerialize, responseDeserialize } = this.#method(service, name);
    const { signal } = options;
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadataOf(options),
        deadlineOf(options),
        (error, answer) => {
          signal?.removeEventListener("abort", cancel);
          this.#calls.delete(call);
          if (error !== null) reject(signal?.aborted ? asNydusError(signal.reason) : fromStatus(error, this.#url));
          else resolve(answer as Message);
        },
      );
      const cancel = (): void => call.cancel();
      this.#calls.add(call);
      signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  /**
   * Calls a method that answers with many messages; leaving the loop early ends the call.
   * @throws as {@link call}
   */
  async *stream(
    service: ProtoService,
    name: string,
    request: Message,
    options: CallOptions = {},
  ): AsyncGenerator<Message> {
    const { path, requestSerialize, responseDeserialize } = this.#method(service, name);
    const { signal } = options;
    signal?.throwIfAborted();
    const call = this.#client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      metadataOf(options),
      deadlineOf(options),
    );
    const cancel = (): void => call.cancel();
    this.#calls.add(call);
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      yield* call as AsyncIterable<Message>;
    } catch (error) {
      throw signal?.aborted ? asNydusError(signal.reason) : fromStatus(error as grpc.ServiceError, this.#url);
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#calls.delete(call);
      call.cancel();
    }
  }

  /** A call in which both sides send many messages, such as containerd's `Content.Write`. */
  duplex(service: ProtoService, name: string, options: CallOptions = {}): GrpcDuplex {
    const { path, requestSerialize, responseDeserialize } = this.#method(service, name);
    const call = this.#client.makeBidiStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      metadataOf(options),
      deadlineOf(options),
    );
    return new GrpcDuplex(call, this.#url, options.signal);
  }

  /** Ends the connection, and what is called over it. */
  [Symbol.dispose](): void {
    for (const call of this.#calls) call.cancel();
    this.#client.close();
  }
}

/** One call of {@link GrpcClient.duplex}. */
export class GrpcDuplex implements Disposable {
  readonly #call: grpc.ClientDuplexStream<Message, Message>;
  readonly #answers: AsyncIterator<Message>;
  readonly #url: string;
  readonly #signal: AbortSignal | undefined;
  readonly #cancel = (): void => this.#call.cancel();

  constructor(call: grpc.ClientDuplexStream<Message, Message>, url: string, signal: AbortSignal | undefined) {
    this.#call = call;
    this.#url = url;
    this.#signal = signal;
    this.#answers = (call as AsyncIterable<Message>)[Symbol.asyncIterator]();
    signal?.addEventListener("abort", this.#cancel, { once: true });
  }

  /** Sends a message; waits while the other side does not take them. */
  async send(message: Message): Promise<void> {
    if (this.#call.destroyed || this.#call.write(message)) return; // why it is, the next answer says
    await new Promise<void>((resolve) => this.#call.once("drain", resolve).once("close", resolve));
  }

  /** The next answer. @returns undefined at the end @throws as {@link GrpcClient.call} */
  async receive(): Promise<Message | undefined> {
    try {
      const { done, value } = await this.#answers.next();
      return done ? undefined : value;
    } catch (error) {
      throw this.#signal?.aborted
        ? asNydusError(this.#signal.reason)
        : fromStatus(error as grpc.ServiceError, this.#url);
    }
  }

  /** Says that no more messages follow. */
  end(): void {
    this.#call.end();
  }

  [Symbol.dispose](): void {
    this.#signal?.removeEventListener("abort", this.#cancel);
    this.#call.on("error", () => undefined); // being cancelled is what is wanted
    this.#call.cancel();
  }
}

function metadataOf({ metadata = {} }: CallOptions): grpc.Metadata {
  const made = new grpc.Metadata();
  for (const [key, value] of Object.entries(metadata)) made.set(key, value);
  return made;
}

function deadlineOf({ timeoutMs }: CallOptions): grpc.CallOptions {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}
