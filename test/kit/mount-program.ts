// A program that mounts a fixture as the command line does, for tests of serving, signals and the background.
// bun mount-program.ts start|serve ROOT MOUNTPOINT BOOTSTRAP BLOB [broken|slow|late]
import { formatError, NydusError } from "../../src/base/errors.ts";
import { startMount } from "../../src/operation/mount/background.ts";
import { serveMount } from "../../src/operation/mount/serve.ts";
import { FIXTURE_CHUNK_BYTES, RawDevice } from "./raw-device.ts";

const [verb, root = "", mountpoint = "", bootstrapPath = "", blobPath = "", fault] = process.argv.slice(2);

async function open(): Promise<{ bootstrapPath: string; devices: RawDevice[] } & AsyncDisposable> {
  if (fault === "broken") throw new NydusError("EBADMSG", "Cannot open image: broken on purpose", { path: blobPath });
  if (fault === "late") await new Promise((resolve) => process.once("SIGTERM", () => setTimeout(resolve, 50)));
  const device = new RawDevice(blobPath, FIXTURE_CHUNK_BYTES);
  if (fault === "slow") device.before = () => new Promise(() => undefined);
  return { bootstrapPath, devices: [device], [Symbol.asyncDispose]: async () => device[Symbol.dispose]() };
}

try {
  if (verb === "start") {
    const args = ["serve", ...process.argv.slice(3)];
    const record = await startMount({ root, mountpoint, args });
    console.log(JSON.stringify(record));
  } else {
    await serveMount({
      root,
      mountpoint,
      image: "test:image",
      open,
      signalGraceMs: fault === "slow" ? 600_000 : undefined,
      onReady: () => console.log("ready"),
      onError: (error) => process.stderr.write(`${formatError(error)}\n`),
    });
  }
} catch (error) {
  process.stderr.write(error instanceof NydusError ? `${error.code}: ${formatError(error)}\n` : `${error}\n`);
  process.exitCode = 1;
}
