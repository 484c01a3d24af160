import { type ChildProcess, spawn } from "node:child_process";
import { NydusError } from "../../base/errors.ts";
import type { Env } from "../http/proxy.ts";
import { redact } from "../http/redact.ts";
import { type Credential, configKey, credentialOf, TOKEN_USERNAME } from "./credential.ts";

const HELPER_TIMEOUT_MS = 30_000;
const MAX_OUTPUT_BYTES = 1 << 20;
const MAX_SHOWN_CHARS = 200;
/** What helpers say when there is no credential (docker-credential-helpers, credentials/error.go). */
const NOT_FOUND = /credentials not found/i;

/**
 * A program that keeps credentials: `docker-credential-<name>`, found by PATH, spoken to over stdin and stdout.
 * @see https://github.com/docker/docker-credential-helpers
 */
export class CredentialHelper {
  readonly #program: string;
  readonly #env: Env;
  readonly #timeoutMs: number;

  constructor(name: string, options: { readonly env: Env; readonly timeoutMs?: number | undefined }) {
    this.#program = `docker-credential-${name}`;
    this.#env = options.env;
    this.#timeoutMs = options.timeoutMs ?? HELPER_TIMEOUT_MS;
  }

  /** The credential of a registry, undefined when there is none. @throws EACCES, ETIMEDOUT, EUCLEAN */
  async get(registry: string): Promise<Credential | undefined> {
    const { status, output } = await this.#run("get", configKey(registry));
    if (status !== 0) {
      if (NOT_FOUND.test(output)) return undefined;
      throw this.#failed("get", status, output);
    }
    const answer = this.#parse(output);
    const [user, secret] = [answer["Username"], answer["Secret"]];
    if (typeof user !== "string" || typeof secret !== "string") throw this.#malformed();
    return credentialOf(user, secret);
  }

  /** Keeps a credential. @throws EACCES, ETIMEDOUT; EINVAL a kind that helpers do not keep */
  async store(registry: string, credential: Credential): Promise<void> {
    const pair = pairOf(credential);
    const words = JSON.stringify({ ServerURL: configKey(registry), Username: pair.username, Secret: pair.secret });
    const { status, output } = await this.#run("store", words);
    if (status !== 0) throw this.#failed("store", status, redact(output, [pair.secret]));
  }

  /** Forgets a registry's credential. @returns whether there was one @throws EACCES, ETIMEDOUT */
  async erase(registry: string): Promise<boolean> {
    const { status, output } = await this.#run("erase", configKey(registry));
    if (status === 0) return true;
    if (NOT_FOUND.test(output)) return false;
    throw this.#failed("erase", status, output);
  }

  #run(action: string, input: string): Promise<{ readonly status: number | string; readonly output: string }> {
    return new Promise((resolve, reject) => {
      const child = spawn(this.#program, [action], { env: { ...this.#env }, stdio: ["pipe", "pipe", "ignore"] });
      const pieces: Buffer[] = [];
      let total = 0;
      const stop = (code: "ETIMEDOUT" | "EUCLEAN", why: string): void => {
        child.kill("SIGKILL");
        child.stdout.destroy(); // its own children may hold the other end
        reject(new NydusError(code, `Cannot ${action} credentials: ${this.#program} ${why}`));
      };
      const timer = setTimeout(() => stop("ETIMEDOUT", "does not end"), this.#timeoutMs);
      child.stdout.on("data", (piece: Buffer) => {
        total += piece.length;
        if (total > MAX_OUTPUT_BYTES) stop("EUCLEAN", "says too much");
        else pieces.push(piece);
      });
      child.on("error", (cause) => {
        clearTimeout(timer);
        reject(new NydusError("EACCES", `Cannot ${action} credentials: ${this.#program} does not run`, {}, { cause }));
      });
      child.on("close", (code, signal) => {
        clearTimeout(timer);
        resolve({ status: code ?? signal ?? "unknown", output: Buffer.concat(pieces).toString() });
      });
      say(child, input);
    });
  }

  #parse(output: string): Readonly<Record<string, unknown>> {
    try {
      return Object(JSON.parse(output)) as Readonly<Record<string, unknown>>;
    } catch {
      throw this.#malformed(); // without the cause, which quotes what came
    }
  }

  #malformed(): NydusError {
    return new NydusError("EUCLEAN", `Cannot get credentials: what ${this.#program} says is no credential`);
  }

  #failed(action: string, status: number | string, output: string): NydusError {
    const line = (output.trim().split("\n")[0] ?? "").replace(/\p{C}+/gu, " ").slice(0, MAX_SHOWN_CHARS);
    const said = action === "get" && line.startsWith("{") ? "" : line;
    const why = said === "" ? `it ends with ${status}` : said;
    return new NydusError("EACCES", `Cannot ${action} credentials: ${this.#program}: ${why}`);
  }
}

/** One that does not read what it is told is not our failure: its status tells. */
function say(child: ChildProcess, input: string): void {
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(input);
}

function pairOf(credential: Credential): { readonly username: string; readonly secret: string } {
  if (credential.kind === "password") return { username: credential.username, secret: credential.password };
  if (credential.kind === "identity") return { username: TOKEN_USERNAME, secret: credential.token };
  throw new NydusError("EINVAL", "Cannot store credentials: helpers keep no registry tokens");
}
