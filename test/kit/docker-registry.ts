import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
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
}

/** Starts the distribution project's registry on a free loopback port. */
export async function startDockerRegistry(): Promise<DockerRegistry> {
  const dir = mkdtempSync(join(tmpdir(), "nydus-docker-registry-"));
  const host = `127.0.0.1:${await freePort()}`;
  const config = join(dir, "config.yml");
  const storage = `storage: { filesystem: { rootdirectory: ${dir}/data }, delete: { enabled: true } }`;
  writeFileSync(config, `version: 0.1\nlog: { level: error }\n${storage}\nhttp: { addr: "${host}" }\n`);
  const child = spawn(BINARY, ["serve", config], { stdio: "ignore" });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const dispose = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    await untilAnswering(`http://${host}/v2/`);
  } catch (error) {
    await dispose();
    throw error;
  }
  return { host, dir, [Symbol.asyncDispose]: dispose };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function untilAnswering(url: string): Promise<void> {
  for (let waited = 0; waited < START_MS; waited += 50) {
    const answer = await fetch(url).catch(() => undefined);
    if (answer?.ok) return;
    await Bun.sleep(50);
  }
  throw new Error(`the registry does not answer at ${url}`);
}
