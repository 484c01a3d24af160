// A program that mounts a fixture as the command line does, for tests of serving, signals and the background.
// bun mount-program.ts start|serve ROOT MOUNTPOINT BOOTSTRAP BLOB [broken|slow|late]
import { join } from "node:path";
import { formatError, NydusError } from "../../src/base/errors.ts";
import { startInBackground } from "../../src/operation/mount/background.ts";
import { readinessReporter } from "../../src/operation/mount/readiness.ts";
import { serveMount } from "../../src/operation/mount/serve.ts";
import { type MappedFile, mapFile } from "../../src/os/mmap.ts";
import { FIXTURE_CHUNK_BYTES, RawDevice } from "./raw-device.ts";

const [verb, root = "", mountpoint = "", bootstrapPath = "", blobPath = "", fault] = process.argv.slice(2);

async function open(): Promise<{ bootstrap: MappedFile; devices: RawDevice[] } & AsyncDisposable> {
  if (fault === "broken") throw new NydusError("EBADMSG", "Cannot open image: broken on purpose", { path: blobPath });
  if (fault === "late") await new Promise((resolve) => process.once("SIGTERM", () => setTimeout(resolve, 50)));
  const device = new RawDevice(blobPath, FIXTURE_CHUNK_BYTES);
  if (fault === "slow") device.before = () => new Promise(() => undefined);
  const bootstrap = mapFile(bootstrapPath);
  const dispose = async (): Promise<void> => {
    device[Symbol.dispose]();
    bootstrap.close();
  };
  return { bootstrap, devices: [device], [Symbol.asyncDispose]: dispose };
}

const readiness = readinessReporter();

try {
  if (verb === "start") {
    const [runtime = "", program = ""] = process.argv;
    const command = [runtime, program, "serve", ...process.argv.slice(3)];
    console.log(JSON.stringify(await startInBackground(command, join(root, "logs", "serve.log"))));
  } else {
    await serveMount({
      root,
      mountpoint,
      image: "test:image",
      open,
      signalGraceMs: fault === "slow" ? 600_000 : undefined,
      onReady: (record) => {
        console.log("ready");
        readiness.ready(record);
      },
      onError: (error) => process.stderr.write(`${formatError(error)}\n`),
    });
  }
} catch (error) {
  readiness.failed(error);
  process.stderr.write(error instanceof NydusError ? `${error.code}: ${formatError(error)}\n` : `${error}\n`);
  process.exitCode = 1;
}
