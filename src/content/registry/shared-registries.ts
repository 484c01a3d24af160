import { statSync } from "node:fs";
import { HttpClient } from "../http/transport.ts";
import type { CredentialSource } from "./credential.ts";
import { CredentialFiles } from "./credential-files.ts";
import type { OpenedAccess } from "./registry.ts";
import { SharedAuths } from "./shared-auths.ts";

/** How registries are spoken to: who speaks alike shares connections and tokens. */
interface SharedAccessOptions {
  readonly caFile?: string | undefined;
  /** Undefined: with registries on this machine only. */
  readonly plainHttp: boolean | undefined;
}

interface SharedClient {
  readonly http: HttpClient;
  readonly auths: SharedAuths;
  users: number;
}

/** Clients that nobody uses and that are kept, for who comes next. */
const UNUSED_MAX = 4;

/**
 * What all images of a long process share when they come from registries: pools of connections, and one token for each
 * repository. Disposing ends the connections.
 */
export class SharedRegistries implements AsyncDisposable {
  readonly #credentials: CredentialSource;
  /** By how they speak; the least recently used first. */
  readonly #clients = new Map<string, SharedClient>();

  constructor(credentials: CredentialSource = new CredentialFiles(process.env)) {
    this.#credentials = credentials;
  }

  /** What registries are reached with; disposing gives it back. @throws as `HttpClient` */
  access(options: SharedAccessOptions): OpenedAccess {
    const { caFile, plainHttp } = options;
    const key = JSON.stringify([plainHttp, caFile === undefined ? undefined : fileIdentity(caFile)]);
    const client = this.#clients.get(key) ?? { http: new HttpClient({ caFile }), auths: new SharedAuths(), users: 0 };
    this.#clients.delete(key);
    this.#clients.set(key, client);
    client.users++;
    let open = true;
    return {
      ...{ http: client.http, auths: client.auths, plainHttp, credentials: this.#credentials },
      [Symbol.asyncDispose]: async () => {
        if (!open) return;
        open = false;
        client.users--;
        await this.#closeUnused(UNUSED_MAX);
      },
    };
  }

  async #closeUnused(kept: number): Promise<void> {
    const unused = [...this.#clients].filter(([, { users }]) => users === 0);
    const closed = unused.slice(0, Math.max(0, unused.length - kept));
    for (const [key] of closed) this.#clients.delete(key);
    for (const [, { http }] of closed) await http[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const clients = [...this.#clients.values()];
    this.#clients.clear();
    for (const { http } of clients) await http[Symbol.asyncDispose]();
  }
}

/** Names the content of a file; a missing one's failure is the client's to tell. */
function fileIdentity(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined ? path : [path, found.dev, found.ino, found.size, found.mtimeMs].join(":");
}
