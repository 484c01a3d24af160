import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const BINARY = "docker-registry";
const START_MS = 15_000;

/** Whether Debian's docker-registry is installed. */
export const hasDockerRegistry = spawnSync(BINARY, ["--version"]).status === 0;

/** A real registry on this machine, empty at the start. */
export interface DockerRegistry extends AsyncDisposable {
  /** `127.0.0.1:PORT` */
  readonly host: string;
  /** Where it keeps its blobs. */
  readonly dir: string;
  /** Ends it; what it has stays. */
  stop(): Promise<void>;
  /** Starts it again, at the same address. */
  start(): Promise<void>;
}

/** How the registry is guarded. */
export interface DockerRegistryOptions {
  /** Whom it lets in, by Basic. */
  readonly user?: { readonly name: string; readonly password: string };
  /** Key and certificate in PEM, to speak https. */
  readonly tls?: { readonly key: string; readonly cert: string };
}

/** Starts the distribution project's registry on a free loopback port. */
export async function startDockerRegistry(options: DockerRegistryOptions = {}): Promise<DockerRegistry> {
  const dir = mkdtempSync(join(tmpdir(), "nydus-docker-registry-"));
  const host = `127.0.0.1:${await freePort()}`;
  const config = join(dir, "config.yml");
  const storage = `storage: { filesystem: { rootdirectory: ${dir}/data }, delete: { enabled: true } }`;
  const more = guards(dir, options);
  writeFileSync(
    config,
    `version: 0.1\nlog: { level: error }\n${storage}\nhttp: { addr: "${host}"${more.http} }\n${more.auth}`,
  );
  let process = serve(config);
  const stop = (): Promise<void> => process.end();
  const start = async (): Promise<void> => {
    process = serve(config);
    await untilListening(host);
  };
  const dispose = async (): Promise<void> => {
    await stop();
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    await untilListening(host);
  } catch (error) {
    await dispose();
    throw error;
  }
  return { host, dir, stop, start, [Symbol.asyncDispose]: dispose };
}

function serve(config: string): { end(): Promise<void> } {
  const child = spawn(BINARY, ["serve", config], { stdio: "ignore" });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const end = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  return { end };
}

function guards(dir: string, { user, tls }: DockerRegistryOptions): { readonly http: string; readonly auth: string } {
  const put = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const http =
    tls === undefined ? "" : `, tls: { certificate: ${put("cert.pem", tls.cert)}, key: ${put("key.pem", tls.key)} }`;
  if (user === undefined) return { http, auth: "" };
  const hash = Bun.password.hashSync(user.password, { algorithm: "bcrypt", cost: 4 });
  return { http, auth: `auth: { htpasswd: { realm: test, path: ${put("htpasswd", `${user.name}:${hash}\n`)} } }\n` };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function untilListening(host: string): Promise<void> {
  for (let waited = 0; waited < START_MS; waited += 50) {
    if (await answers(Number(host.split(":")[1]))) return;
    await Bun.sleep(50);
  }
  throw new Error(`the registry does not answer at ${host}`);
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true));
    socket.on("connect", () => socket.destroy()).on("error", () => resolve(false));
  });
}
