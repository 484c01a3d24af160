import { formatError, NydusError } from "../../base/errors.ts";
import { type MountStats, openMountSource } from "../../operation/image/mount-source.ts";
import { startMount } from "../../operation/mount/background.ts";
import { DEFAULT_ENGINE, ENGINES, type EngineName } from "../../operation/mount/engines.ts";
import { serveMount } from "../../operation/mount/serve.ts";
import { umountMount } from "../../operation/mount/umount.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import {
  bothUsages,
  chooseImage,
  IMAGE_ARGS,
  type ImageArguments,
  type ImageChoice,
  openChosen,
} from "../image-args.ts";
import { printJson, printStderr } from "../output.ts";
import { formatBytes } from "../progress.ts";
import { parseChoice, parseDuration, parseInteger } from "../values.ts";

const MAX_THREADS = 64;

/** A mount as the arguments ask for it. */
interface MountRequest {
  readonly image: ImageChoice;
  readonly imageArgs: ImageArguments;
  readonly mountpoint: string;
  readonly engine: EngineName;
  readonly threads: number;
  readonly readTimeoutMs: number;
}

async function mountInForeground(request: MountRequest, context: CliContext): Promise<void> {
  const { image, imageArgs, mountpoint, engine, threads, readTimeoutMs } = request;
  const { root, quiet, json } = context;
  let stats: MountStats | undefined;
  const open = (): ReturnType<typeof openMountSource> =>
    openMountSource({
      root,
      readTimeoutMs,
      open: () => openChosen(image, imageArgs, context),
      onEnd: (ended) => {
        stats = ended;
      },
    });
  const onError = (error: NydusError): void => printStderr(`nydus: ${formatError(error)}\n`);
  const shown = "name" in image ? image.name : image.bootstrapPath;
  // From here on signals unmount; until then they interrupt as everywhere.
  const onReady = (): void => context.releaseSignals();
  await serveMount({ root, mountpoint, image: shown, engine, threads, readTimeoutMs, open, onReady, onError });
  if (stats === undefined || quiet) return;
  if (json) await printJson({ mountpoint, image: shown, ...stats });
  else printStderr(summary(stats));
}

function summary({ requests, demandBytes, prefetchBytes, filledBytes, blobBytes }: MountStats): string {
  const fetched = `${formatBytes(demandBytes + prefetchBytes)} of ${formatBytes(blobBytes)}`;
  return `fetched ${fetched} in ${requests} requests, ${formatBytes(filledBytes)} uncompressed\n`;
}

/** The same command for the process in the background; it is asked nothing that this one has not checked. */
function foregroundArgs(request: MountRequest, { root }: CliContext): string[] {
  const { image, imageArgs, mountpoint, engine, threads, readTimeoutMs } = request;
  const flags = ["--engine", engine, "--threads", `${threads}`, "--read-timeout", `${readTimeoutMs}ms`];
  if (imageArgs.platform !== undefined) flags.push("--platform", imageArgs.platform);
  const from = "name" in image ? [] : ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir];
  const names = "name" in image ? [image.name, mountpoint] : [mountpoint];
  return ["--root", root, "--quiet", "mount", "--foreground", ...flags, ...from, "--", ...names];
}

async function mountInBackground(request: MountRequest, context: CliContext): Promise<void> {
  const { root, signal } = context;
  const { mountpoint } = request;
  const record = await startMount({ root, mountpoint, args: foregroundArgs(request, context) });
  if (signal.aborted) {
    await umountMount({ root, mountpoint });
    throw signal.reason;
  }
  if (context.json) await printJson(record);
}

/** `nydus mount` */
export const mountCommand = nydusCommand({
  description: `Mount an image; data is fetched when it is read

Metadata is there at once; file data is fetched, verified and cached chunk by chunk on first read. The mount is
read-only and served by a process in the background, or by this one with --foreground, which then prints what was
fetched. 'nydus umount' or SIGTERM to that process ends it. Needs root: mounting is its privilege.

e.g., 'nydus mount oci:./alpine:nydus /mnt'
      'nydus mount --bootstrap image.boot --blob-dir ./blobs /mnt'`,
  usage: bothUsages("MOUNTPOINT"),
  args: {
    image: { type: "positional", required: false, description: "Nydus image, by any name that 'nydus convert' takes" },
    mountpoint: { type: "positional", required: false, description: "Existing directory" },
    ...IMAGE_ARGS,
    foreground: { type: "boolean", description: "Serve the mount in this process" },
    engine: { type: "enum", options: Object.keys(ENGINES), default: DEFAULT_ENGINE, description: "How to mount" },
    "read-timeout": {
      type: "string",
      valueHint: "TIME",
      default: "30s",
      description: "Fail a read that gets no data for so long",
    },
    threads: { type: "string", valueHint: "N", default: "2", description: "Threads that answer the kernel" },
  },
  async run(args, context) {
    const { image, rest } = chooseImage(args, [args.image, args.mountpoint]);
    const [mountpoint] = rest;
    if (mountpoint === undefined)
      throw new NydusError("EINVAL", "Missing argument MOUNTPOINT; see 'nydus mount --help'");
    const request: MountRequest = {
      image,
      imageArgs: args,
      mountpoint,
      engine: parseChoice("engine", args.engine, Object.keys(ENGINES) as EngineName[]),
      threads: parseInteger("threads", args.threads, { min: 1, max: MAX_THREADS }),
      readTimeoutMs: parseDuration("read-timeout", args["read-timeout"]),
    };
    if (args.foreground === true) await mountInForeground(request, context);
    else await mountInBackground(request, context);
    return 0;
  },
});
