import { SingleFlight } from "../../base/async.ts";
import { NydusError } from "../../base/errors.ts";
import type { HttpClient } from "../http/transport.ts";
import { shownUrl } from "../http/url.ts";
import { orAborted } from "../store/abort.ts";
import { type Challenge, parseChallenges } from "./challenge.ts";
import { basicAuthorization, type Credential, type CredentialSource } from "./credential.ts";
import { realmOf } from "./realm.ts";
import { requestToken, type Token, type TokenRequest } from "./token.ts";

/** What is done to a repository: each needs a token of its own. */
export type RegistryAction = "pull" | "push";

/** Whose requests are authorized. */
export interface AuthOptions {
  readonly http: HttpClient;
  /** Any address of the registry's API: authorization goes to its origin only. */
  readonly api: URL;
  /** As in image names. */
  readonly registry: string;
  /** Undefined where the registry itself is meant. */
  readonly repository: string | undefined;
  readonly credentials: CredentialSource;
  /** Milliseconds; the system's unless given. */
  readonly now?: (() => number) | undefined;
}

/** What came of a request. */
export interface Refusal {
  readonly action: RegistryAction;
  /** Every WWW-Authenticate header. */
  readonly challenges: readonly string[];
  /** The Authorization that was sent. */
  readonly sent: string | undefined;
  readonly signal: AbortSignal | undefined;
}

interface Grant {
  readonly asked: Omit<TokenRequest, "credential">;
  readonly token: Token;
}

/**
 * Authorization to one repository of one registry, as the registry asks for it. A token is asked for once for all who
 * need it, and anew before it ends; credentials are looked for when they are needed, each time anew.
 */
export class RegistryAuth {
  readonly #options: AuthOptions;
  readonly #now: () => number;
  readonly #flights = new SingleFlight<string, void>();
  readonly #grants = new Map<RegistryAction, Grant>();
  /** An authorization that needs no token server. */
  #fixed: string | undefined;

  constructor(options: AuthOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** The value of Authorization for a request to `url`. @throws as {@link answer} when a token that has ended is not replaced */
  async authorizationFor(
    url: URL,
    action: RegistryAction,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    if (url.origin !== this.#options.api.origin) return undefined;
    const grant = this.#grants.get(action);
    if (grant !== undefined && this.#now() >= grant.token.refreshAt) await this.#refresh(action, grant, signal);
    const token = this.#grants.get(action)?.token;
    return token === undefined ? this.#fixed : `Bearer ${token.value}`;
  }

  async #refresh(action: RegistryAction, grant: Grant, signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.#once(action, () => this.#grant(action, grant.asked), signal);
    } catch (error) {
      if (signal?.aborted || this.#now() >= grant.token.expiresAt) throw error;
    }
  }

  /**
   * Answers a 401: gets what the registry asks for.
   * @throws EACCES the registry wants credentials that are not there, or a realm that no token may be asked of; EIO
   */
  async answer({ action, challenges, sent, signal }: Refusal): Promise<void> {
    const known = challenges.flatMap(parseChallenges);
    const bearer = known.find(({ scheme }) => scheme === "bearer");
    if (bearer !== undefined) {
      const { token } = this.#grants.get(action) ?? {};
      // Another request has brought a token while this one was under way.
      if (token !== undefined && sent !== `Bearer ${token.value}` && this.#now() < token.expiresAt) return;
      await this.#once(action, () => this.#answerBearer(action, bearer), signal);
    } else if (known.some(({ scheme }) => scheme === "basic")) {
      await this.#once("basic", () => this.#answerBasic(), signal);
    } else {
      const schemes = known.map(({ scheme }) => scheme).join(", ") || "nothing that is known";
      throw this.#refused(`it wants ${schemes}; basic and bearer are supported`);
    }
  }

  /** Whoever comes while it is under way gets the same; one who gives up does not end it for the others. */
  #once(key: string, work: () => Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    return orAborted(this.#flights.run(key, work), signal);
  }

  async #answerBearer(action: RegistryAction, { parameters }: Challenge): Promise<void> {
    const { api } = this.#options;
    const realm = realmOf(parameters.get("realm"), api);
    const service = parameters.get("service") || undefined;
    const scope = this.#scopeFor(action, parameters.get("scope") ?? "");
    await this.#grant(action, { realm, service, scope });
  }

  /** What the registry asks for; a registry that asks for less than a push needs gets asked for it all the same. */
  #scopeFor(action: RegistryAction, asked: string): string | undefined {
    const { repository } = this.#options;
    if (asked === "") return undefined;
    if (action === "pull" || repository === undefined) return asked;
    const own = `repository:${repository}:`;
    const isEnough = asked.split(" ").some((one) => one.startsWith(own) && /[:,](?:push|\*)(?:,|$)/.test(one));
    return isEnough ? asked : `${asked} ${own}pull,push`;
  }

  async #grant(action: RegistryAction, asked: Grant["asked"]): Promise<void> {
    const credential = await this.#credential();
    if (credential?.kind === "bearer") {
      this.#grants.delete(action);
      this.#fixed = `Bearer ${credential.token}`;
      return;
    }
    const token = await requestToken(this.#options.http, { ...asked, credential }, this.#now);
    this.#grants.set(action, { asked, token });
  }

  async #answerBasic(): Promise<void> {
    const credential = await this.#credential();
    if (credential?.kind === "password") {
      this.#fixed = basicAuthorization(credential);
      return;
    }
    const { registry } = this.#options;
    const found = credential === undefined ? "there are none" : "there is a token";
    throw this.#refused(`it wants user and password (basic), ${found}; 'nydus login ${registry}' stores them`);
  }

  #credential(): Promise<Credential | undefined> {
    const { credentials, registry, repository } = this.#options;
    return credentials.find({ registry, repository });
  }

  #refused(why: string): NydusError {
    return new NydusError("EACCES", `Cannot authenticate to the registry: ${why}`, {
      url: shownUrl(this.#options.api),
    });
  }
}
