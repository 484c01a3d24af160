import type { Env } from "../http/proxy.ts";
import { HttpClient } from "../http/transport.ts";
import type { CredentialSource } from "./credential.ts";
import { CredentialFiles } from "./credential-files.ts";
import type { RegistryAccess } from "./registry.ts";

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
}

/** The client and the credentials for registries; the caller closes the client. @throws as `HttpClient` */
export function openAccess(options: RegistryOptions = {}): RegistryAccess {
  const { env = process.env, caFile, plainHttp } = options;
  const http = new HttpClient({ env, caFile });
  const isPlain = plainHttp ?? (caFile === undefined ? undefined : false);
  return { http, plainHttp: isPlain, credentials: options.credentials ?? new CredentialFiles(env) };
}
