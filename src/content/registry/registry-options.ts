import type { Env } from "../http/proxy.ts";
import { HttpClient } from "../http/transport.ts";
import type { CredentialSource } from "./credential.ts";
import { CredentialFiles } from "./credential-files.ts";
import type { OpenedAccess } from "./registry.ts";
import type { SharedRegistries } from "./shared-registries.ts";

/** How registries are reached. */
export interface RegistryOptions {
  /** Certificates in PEM, trusted besides the system's. With them https is spoken on this machine, too. */
  readonly caFile?: string | undefined;
  /** Whether registries are spoken to without TLS; unless given only those on this machine, and only without `caFile`. */
  readonly plainHttp?: boolean | undefined;
  /** For credentials, proxies and certificates; the program's own unless given. */
  readonly env?: Env | undefined;
  /** In the place of what is on this machine. */
  readonly credentials?: CredentialSource | undefined;
  /** Connections and tokens of the process, with its credentials and environment; own ones unless given. */
  readonly shared?: SharedRegistries | undefined;
}

/** The client and the credentials for registries; the caller disposes it. @throws as `HttpClient` */
export function openAccess(options: RegistryOptions = {}): OpenedAccess {
  const { env = process.env, caFile, plainHttp, shared } = options;
  const isPlain = plainHttp ?? (caFile === undefined ? undefined : false);
  if (shared !== undefined) return shared.access({ caFile, plainHttp: isPlain });
  const http = new HttpClient({ env, caFile });
  const credentials = options.credentials ?? new CredentialFiles(env);
  return { http, plainHttp: isPlain, credentials, [Symbol.asyncDispose]: () => http[Symbol.asyncDispose]() };
}
