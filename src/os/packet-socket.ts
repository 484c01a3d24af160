import { libc, systemFailure } from "./syscall.ts";

/** Most bytes of one packet; longer messages go in several. */
const PACKET_BYTES = 32 * 1024;
/** First byte of a packet: whether the message goes on in the next one. */
const MORE = 1;
const LAST = 0;
/** No message is longer: who sends more is not one of us. */
const MESSAGE_BYTES = 16 << 20;
const EAGAIN = 11;
const EINTR = 4;
const EPIPE = 32;
/** Longest wait for room to send in, and how often to try: who does not listen for so long is stuck. */
const SEND_TIMEOUT_MS = 5_000;
const SEND_POLL_MS = 2;
const ECONNRESET = 104;

/** Two connected sockets for {@link sendMessage}; the first is closed on exec, the second is for a child. @throws EIO */
export function packetPair(): readonly [number, number] {
  const { errno, fds } = libc().socketPair("packets");
  if (fds === undefined) throw systemFailure(errno, "make a socket pair");
  return fds;
}

/** A message of any length in packets, each with its first byte. */
export function packetsOf(text: string): Uint8Array[] {
  const bytes = new TextEncoder().encode(text);
  const count = Math.max(1, Math.ceil(bytes.length / PACKET_BYTES));
  return Array.from({ length: count }, (_, i) => {
    const part = bytes.subarray(i * PACKET_BYTES, (i + 1) * PACKET_BYTES);
    const packet = new Uint8Array(1 + part.length);
    packet[0] = i === count - 1 ? LAST : MORE;
    packet.set(part, 1);
    return packet;
  });
}

/**
 * Sends a message, and a copy of a descriptor with it. What has been sent arrives, even if this process dies now.
 * @returns false when nobody is at the other end
 * @throws EAGAIN the other end has not listened for seconds; EIO
 */
export function sendMessage(socket: number, text: string, fd?: number): boolean {
  return sendWithin(SEND_TIMEOUT_MS, { socket, text, fd });
}

/** The same of a short message, without waiting for room. */
export function sendNow(socket: number, text: string): boolean {
  return sendWithin(0, { socket, text, fd: undefined });
}

function sendWithin(
  timeoutMs: number,
  { socket, text, fd }: { readonly socket: number; readonly text: string; readonly fd: number | undefined },
): boolean {
  const packets = packetsOf(text);
  for (const [i, packet] of packets.entries()) {
    const send = (): number => libc().send(socket, packet, i === packets.length - 1 ? fd : undefined);
    const errno = untilRoom(timeoutMs, send);
    if (errno === EPIPE || errno === ECONNRESET) return false;
    if (errno !== 0) throw systemFailure(errno, "send a message to another process of this program");
  }
  return true;
}

/** Waits where it must: nothing else may come between, and the other end takes messages at once. */
function untilRoom(timeoutMs: number, send: () => number): number {
  for (let waited = 0; ; waited += SEND_POLL_MS) {
    const errno = send();
    if (errno !== EAGAIN || waited >= timeoutMs) return errno;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, SEND_POLL_MS);
  }
}

/** A message as it came. */
export interface ReceivedMessage {
  readonly text: string;
  readonly fd?: number | undefined;
}

/** The receiving side of a packet socket. */
export class MessageReader {
  readonly #socket: number;
  readonly #packet = new Uint8Array(1 + PACKET_BYTES);
  readonly #parts: Uint8Array[] = [];
  #sizeBytes = 0;

  constructor(socket: number) {
    this.#socket = socket;
  }

  /** The next message, without waiting: "none" when none has come whole, "closed" when none will come. */
  next(): ReceivedMessage | "none" | "closed" {
    for (;;) {
      const { errno, length, fd } = libc().receive(this.#socket, this.#packet);
      if (errno === EINTR) continue;
      if (errno === EAGAIN) return "none";
      if (errno !== 0 || length === 0) return "closed";
      this.#parts.push(this.#packet.slice(1, length));
      this.#sizeBytes += length;
      if (this.#sizeBytes > MESSAGE_BYTES) return "closed";
      if (this.#packet[0] === LAST) return { text: this.#take(), fd };
    }
  }

  #take(): string {
    const decoder = new TextDecoder();
    const text = this.#parts.map((part) => decoder.decode(part, { stream: true })).join("") + decoder.decode();
    this.#parts.length = 0;
    this.#sizeBytes = 0;
    return text;
  }
}

/**
 * Hears what comes over a packet socket while the event loop runs; descriptors are lost.
 * @param onText gets one message or several, each of which ends with a newline
 * @param onClosed the other end is closed, or its process dead
 * @returns ends the listening; the socket may be closed then
 */
export function listenToSocket(socket: number, onText: (text: string) => void, onClosed: () => void): Disposable {
  libc().setNonBlocking(socket);
  const reader = Bun.file(socket).stream().getReader();
  let isOpen = true;
  const run = async (): Promise<void> => {
    const decoder = new TextDecoder();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done || !isOpen) break;
        onText(decoder.decode(value, { stream: true }).replaceAll("\0", ""));
      }
    } catch {
      // as good as closed
    }
    if (isOpen) onClosed();
  };
  void run();
  return {
    [Symbol.dispose]: () => {
      isOpen = false;
      void reader.cancel().catch(() => undefined);
    },
  };
}
