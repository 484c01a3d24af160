import { createConnection, createServer, type Server, type Socket } from "node:net";

/** A link as a proxy plays it. */
export interface Link {
  /** Each way, for all connections together, bits a second. */
  readonly bitsPerSecond: number;
  /** Added to each round trip, milliseconds: half each way. A new connection costs one more. */
  readonly roundTripMs: number;
}

/** Bytes that have gone through, without those that are still under way. */
export interface Traffic {
  readonly downBytes: number;
  readonly upBytes: number;
  readonly connections: number;
}

/** A TCP proxy on loopback in front of a server, slow as a link is. */
export interface ShapingProxy extends AsyncDisposable {
  readonly port: number;
  readonly traffic: Traffic;
}

/** A sender is paused while more than this is waiting for the link: about what a real one has in its buffers. */
const QUEUE_MS = 20;
/** Data is cut to this, so that connections share the link. */
const CUT_BYTES = 16 * 1024;

/** One direction of the link: bytes leave one after the other at its rate, and arrive half a round trip later. */
class Lane {
  readonly #bytesPerMs: number;
  readonly #delayMs: number;
  #freeAt = 0;

  constructor(link: Link) {
    this.#bytesPerMs = link.bitsPerSecond / 8 / 1000;
    this.#delayMs = link.roundTripMs / 2;
  }

  /** How long a byte that came now would wait before it leaves. */
  get queueMs(): number {
    return Math.max(0, this.#freeAt - performance.now());
  }

  /** When data that is sent now arrives, by performance.now. */
  arrival(bytes: number): number {
    this.#freeAt = Math.max(this.#freeAt, performance.now()) + bytes / this.#bytesPerMs;
    return this.#freeAt + this.#delayMs;
  }
}

/** Runs what is due, in order, with one timer. */
class Schedule {
  readonly #due: { readonly at: number; readonly run: () => void }[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  add(at: number, run: () => void): void {
    this.#due.push({ at, run });
    this.#arm();
  }

  #arm(): void {
    const [next] = this.#due;
    if (next === undefined || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => this.#fire(), Math.max(0, next.at - performance.now()));
  }

  #fire(): void {
    this.#timer = undefined;
    const now = performance.now();
    while (this.#due[0] !== undefined && this.#due[0].at <= now) this.#due.shift()?.run();
    this.#arm();
  }

  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#due.length = 0;
  }
}

/** Passes one direction of one connection on. */
function pump(ends: { from: Socket; to: Socket }, lane: Lane, plan: Plan): void {
  const { from, to } = ends;
  const schedule = new Schedule();
  const at = (bytes: number): number => Math.max(lane.arrival(bytes), plan.notBefore);
  from.on("data", (data: Buffer) => {
    for (let start = 0; start < data.length; start += CUT_BYTES) {
      const piece = data.subarray(start, start + CUT_BYTES);
      schedule.add(at(piece.length), () => {
        plan.count(piece.length);
        to.write(piece);
      });
    }
    if (lane.queueMs <= QUEUE_MS) return;
    from.pause();
    setTimeout(() => from.resume(), lane.queueMs - QUEUE_MS / 2);
  });
  from.on("end", () => schedule.add(at(0), () => to.end()));
  from.on("error", () => to.destroy());
  to.on("close", () => {
    schedule.clear();
    from.destroy();
  });
}

interface Plan {
  /** Nothing arrives before: making the connection takes a round trip. */
  readonly notBefore: number;
  count(bytes: number): void;
}

async function listen(server: Server, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return address.port;
}

/**
 * Starts a proxy in this process, which should be idle: what it does besides counts as the link's.
 * @param upstream port on loopback
 * @param port to listen on; any unless given
 */
export async function startShapingProxy(upstream: number, link: Link, port = 0): Promise<ShapingProxy> {
  const down = new Lane(link);
  const up = new Lane(link);
  const traffic = { downBytes: 0, upBytes: 0, connections: 0 };
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    const origin = createConnection({ port: upstream, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    traffic.connections++;
    for (const socket of [client, origin]) {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
    }
    const firstArrival = performance.now() + 1.5 * link.roundTripMs;
    pump({ from: client, to: origin }, up, {
      notBefore: firstArrival,
      count: (bytes) => {
        traffic.upBytes += bytes;
      },
    });
    pump({ from: origin, to: client }, down, {
      notBefore: 0,
      count: (bytes) => {
        traffic.downBytes += bytes;
      },
    });
  });
  return {
    port: await listen(server, port),
    get traffic() {
      return { ...traffic };
    },
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
