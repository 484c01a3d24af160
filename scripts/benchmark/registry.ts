import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type Lab, needProgram } from "./lab.ts";
import { Server } from "./process.ts";

/** A free port on loopback; somebody else may take it before it is used. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

/** Configuration of docker-registry, in JSON, which is YAML. */
function registryConfig(dir: string, port: number): string {
  return JSON.stringify({
    version: 0.1,
    log: { level: "error", accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: dir } },
    http: { addr: `127.0.0.1:${port}` },
  });
}

/** Starts an empty registry of the lab's. @returns its port on loopback @throws Missing */
export async function startRegistry(lab: Lab): Promise<number> {
  const program = needProgram("docker-registry");
  const dir = lab.scratch();
  const port = await freePort();
  const config = join(dir, "config.yml");
  writeFileSync(config, registryConfig(join(dir, "data"), port));
  const server = lab.own(new Server([program, "serve", config]));
  const answers = (): Promise<boolean> =>
    fetch(`http://127.0.0.1:${port}/v2/`).then(
      ({ ok }) => ok,
      () => false,
    );
  await server.untilReady("docker-registry", answers);
  return port;
}

/** Copies an image of a layout into the registry, by skopeo: nothing of ours is in the way. @throws Missing */
export async function pushImage(lab: Lab, image: string, target: string): Promise<void> {
  await lab.run([needProgram("skopeo"), "copy", "--quiet", "--dest-tls-verify=false", image, target]);
}
