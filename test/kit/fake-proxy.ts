import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/** What the proxy was asked: the first line, and the Proxy-Authorization. */
export interface ProxyCall {
  readonly line: string;
  readonly authorization: string | undefined;
}

/** A proxy on this machine, for CONNECT and for whole addresses of plain HTTP. */
export interface FakeProxy extends AsyncDisposable {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly calls: ProxyCall[];
  /** Answers in its place: a status and nothing more. */
  answer: number | undefined;
}

/** @param port where every way leads to @param wanted the Proxy-Authorization without which it answers 407 */
export async function startFakeProxy(port: number, wanted?: string): Promise<FakeProxy> {
  const sockets = new Set<Socket>();
  const calls: ProxyCall[] = [];
  const server = createServer((client) => {
    keep(sockets, client);
    let head = Buffer.alloc(0);
    const onData = (piece: Buffer): void => {
      head = Buffer.concat([head, piece]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) return;
      client.off("data", onData);
      const text = head.subarray(0, end).toString("latin1");
      const [line = ""] = text.split("\r\n");
      const authorization = /^proxy-authorization: *(.*)$/im.exec(text)?.[1]?.trim();
      calls.push({ line, authorization });
      const refusal = proxy.answer ?? (wanted !== undefined && authorization !== wanted ? 407 : undefined);
      if (refusal !== undefined) {
        client.end(`HTTP/1.1 ${refusal} No\r\ncontent-length: 0\r\n\r\n`);
        return;
      }
      const server = keep(sockets, connect(port, "127.0.0.1"));
      if (line.startsWith("CONNECT ")) client.write("HTTP/1.1 200 Connected\r\n\r\n");
      else server.write(Buffer.concat([Buffer.from(originForm(text)), head.subarray(end)]));
      client.pipe(server).pipe(client);
    };
    client.on("data", onData);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const proxy: FakeProxy = {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    answer: undefined,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}

function keep(sockets: Set<Socket>, socket: Socket): Socket {
  sockets.add(socket);
  return socket.on("error", () => undefined).on("close", () => sockets.delete(socket));
}

/** The head with the path only, as servers have it, and without what is the proxy's. */
function originForm(head: string): string {
  return head.replace(/^(\S+) http:\/\/[^/]+/, "$1 ").replace(/\r\nproxy-authorization:[^\r]*/i, "");
}
