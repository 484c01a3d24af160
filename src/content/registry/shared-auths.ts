import { type AuthOptions, RegistryAuth } from "./auth.ts";

/** Repositories whose tokens are kept: the ones that were used last. */
const REPOSITORIES_MAX = 256;

/** The authorizations of a process, one for each repository, with the tokens that they hold. */
export class SharedAuths {
  readonly #auths = new Map<string, RegistryAuth>();

  /** The authorization to a repository, made of `options` unless there is one. */
  of(options: AuthOptions): RegistryAuth {
    const key = JSON.stringify([options.api.href, options.registry]);
    const auth = this.#auths.get(key) ?? new RegistryAuth(options);
    this.#auths.delete(key); // the last used is to be the last in order
    this.#auths.set(key, auth);
    if (this.#auths.size > REPOSITORIES_MAX) this.#auths.delete(this.#auths.keys().next().value ?? "");
    return auth;
  }
}
