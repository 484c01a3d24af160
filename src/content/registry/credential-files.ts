import { homedir } from "node:os";
import { join } from "node:path";
import type { Env } from "../http/proxy.ts";
import { type AuthFile, credentialIn, helperOf, readAuthFile } from "./auth-file.ts";
import type { Credential, CredentialScope, CredentialSource } from "./credential.ts";
import { CredentialHelper } from "./credential-helper.ts";

interface FilePlace {
  readonly path: string;
  /** Whether its keys may mean a part of a registry: containers' do, docker's do not. */
  readonly hasParts: boolean;
}

/** Docker's configuration: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. */
export function dockerConfigPath(env: Env): string {
  return join(env["DOCKER_CONFIG"] || join(env["HOME"] || homedir(), ".docker"), "config.json");
}

/** The file that `nydus login` writes: the one that goes before all others. */
export function loginFilePath(env: Env): string {
  return env["REGISTRY_AUTH_FILE"] || dockerConfigPath(env);
}

function places(env: Env): readonly FilePlace[] {
  const named = env["REGISTRY_AUTH_FILE"];
  const runtimeDir = env["XDG_RUNTIME_DIR"] || `/run/containers/${process.getuid?.() ?? 0}`;
  const ofContainers = env["XDG_RUNTIME_DIR"] ? join(runtimeDir, "containers") : runtimeDir;
  return [
    ...(named ? [{ path: named, hasParts: true }] : []),
    { path: dockerConfigPath(env), hasParts: false },
    { path: join(ofContainers, "auth.json"), hasParts: true },
  ];
}

/**
 * The credentials that are on this machine. The first that is found counts, of: `$REGISTRY_AUTH_FILE`, docker's
 * configuration, containers' auth.json; in each a helper for the registry, the helper for all, what the file holds.
 */
export class CredentialFiles implements CredentialSource {
  readonly #env: Env;

  constructor(env: Env) {
    this.#env = env;
  }

  async find(scope: CredentialScope): Promise<Credential | undefined> {
    for (const { path, hasParts } of places(this.#env)) {
      const file = await readAuthFile(path);
      const found = file && (await this.#findIn(file, hasParts ? scope : { registry: scope.registry }));
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #findIn(file: AuthFile, scope: CredentialScope): Promise<Credential | undefined> {
    const name = helperOf(file, scope.registry);
    const kept = name && (await new CredentialHelper(name, { env: this.#env }).get(scope.registry));
    return kept || credentialIn(file, scope);
  }
}

/** A credential that is already in hand. */
export function heldCredential(credential: Credential | undefined): CredentialSource {
  return { find: async () => credential };
}
