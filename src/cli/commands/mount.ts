import { resolve } from "node:path";
import { formatError, NydusError } from "../../base/errors.ts";
import { formatImageName, parseImageName } from "../../format/oci/transport.ts";
import { type ImageRequest, MountSources, type MountStats } from "../../operation/image/mount-source.ts";
import type { PrefetchChoice } from "../../operation/image/prefetch.ts";
import { DEFAULT_ENGINE, ENGINES, type EngineName } from "../../operation/mount/engines.ts";
import { parseMountFlags } from "../../operation/mount/mount-flags.ts";
import { serveMount } from "../../operation/mount/serve.ts";
import { resolveMountpoint } from "../../os/mount.ts";
import type { MountBody } from "../../service/daemon/api.ts";
import { withDaemon } from "../../service/daemon/start.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { daemonClient, daemonCommand, threadCount } from "../daemon-access.ts";
import { bothUsages, chooseImage, IMAGE_ARGS, type ImageArguments, type ImageChoice, pullOf } from "../image-args.ts";
import { printJson, printStderr } from "../output.ts";
import { formatBytes } from "../progress.ts";
import { registryOptions } from "../registry-args.ts";
import { parseChoice, parseDuration, parseSize, platformOf } from "../values.ts";

/** A mount as the arguments ask for it. */
interface MountRequest {
  readonly image: ImageChoice;
  readonly imageArgs: ImageArguments;
  readonly mountpoint: string;
  readonly engine: EngineName;
  readonly threads: number;
  readonly readTimeoutMs: number;
  /** As after `-o`. */
  readonly options: string;
  readonly prefetch: PrefetchChoice;
  readonly prefetchBytesPerSec: number | undefined;
  /** Absolute. */
  readonly trace: string | undefined;
}

function shownName(image: ImageChoice): string {
  return "name" in image ? image.name : image.bootstrapPath;
}

async function mountInForeground(request: MountRequest, context: CliContext): Promise<void> {
  const { mountpoint, engine, threads, readTimeoutMs, prefetch, prefetchBytesPerSec, trace } = request;
  const { root, quiet, json, signal } = context;
  const image = shownName(request.image);
  const onError = (error: NydusError): void => printStderr(`nydus: ${formatError(error)}\n`);
  await using sources = new MountSources(root);
  await serveMount({
    root,
    mountpoint,
    image,
    engine,
    threads,
    readTimeoutMs,
    trace,
    flags: parseMountFlags(request.options),
    open: () => sources.open(imageRequest(request), { readTimeoutMs, signal, prefetch, prefetchBytesPerSec, onError }),
    // From here on signals unmount; until then they interrupt as everywhere.
    onReady: () => context.releaseSignals(),
    onChoice: (line) => {
      if (context.debug) printStderr(`${line}\n`);
    },
    onError,
  });
  if (quiet) return;
  const stats = await sources.stats();
  if (json) await printJson({ mountpoint, image, ...stats });
  else printStderr(summary(stats));
}

function imageRequest({ image, imageArgs }: MountRequest): ImageRequest {
  return "name" in image
    ? {
        name: image.name,
        platform: platformOf(imageArgs.platform),
        pull: pullOf(imageArgs.pull),
        registry: registryOptions(imageArgs),
      }
    : image;
}

function summary({ requests, demandBytes, prefetchBytes, filledBytes, blobBytes }: MountStats): string {
  const fetched = `${formatBytes(demandBytes + prefetchBytes)} of ${formatBytes(blobBytes)}`;
  return `fetched ${fetched} in ${requests} requests, ${formatBytes(filledBytes)} uncompressed\n`;
}

async function mountInDaemon(request: MountRequest, context: CliContext): Promise<void> {
  const { root, signal, json } = context;
  const body = mountBody(request);
  const client = daemonClient(context);
  const start = { root, client, command: daemonCommand(context, request.threads), signal };
  const record = await withDaemon(start, () => client.mount(body, signal));
  if (json) await printJson(record);
}

/** The request for the daemon, which works in another directory. */
function mountBody(request: MountRequest): MountBody {
  const { image, imageArgs, mountpoint, engine, readTimeoutMs, options, prefetch, prefetchBytesPerSec, trace } =
    request;
  const { platform, pull } = imageArgs;
  platformOf(platform);
  parseMountFlags(options);
  const sent =
    "name" in image
      ? {
          name: absoluteName(image.name),
          pull: pullOf(pull),
          registry: registryOptions(imageArgs),
          ...(platform === undefined ? {} : { platform }),
        }
      : { bootstrap: resolve(image.bootstrapPath), blobDir: resolve(image.blobDir) };
  const shown = shownName(image);
  return {
    ...{ image: sent, shown, mountpoint: resolveMountpoint(mountpoint), engine, readTimeoutMs, options, prefetch },
    ...(prefetchBytesPerSec === undefined ? {} : { prefetchBytesPerSec }),
    ...(trace === undefined ? {} : { trace }),
  };
}

/** An image name whose path does not depend on the directory that one is in. */
function absoluteName(text: string): string {
  const name = parseImageName(text);
  if (!("path" in name)) return text;
  const path = resolve(name.path);
  if (!path.includes(":")) return formatImageName({ ...name, path });
  throw new NydusError("EINVAL", `Cannot mount ${text}: its path has a colon, which only --foreground can take`, {
    path,
  });
}

/** A file of the name of a choice can be written as `./all`. */
function prefetchOf(text: string | undefined): PrefetchChoice {
  if (text === undefined) return "image";
  return text === "all" || text === "none" ? text : { listPath: resolve(text) };
}

/** `nydus mount` */
export const mountCommand = nydusCommand({
  description: `Mount an image; data is fetched when it is read

Metadata is there at once; file data is fetched, verified and cached chunk by chunk on first read. The mount is
read-only and served by the daemon of the state directory, which is started if need be ('nydus daemon --help'), or by
this process with --foreground, which then prints what was fetched. 'nydus umount' ends it. Root mounts for all users;
others mount through fusermount3, for themselves unless -o allow_other is given and allowed.

e.g., 'nydus mount oci:./alpine:nydus /mnt'
      'nydus mount --bootstrap image.boot --blob-dir ./blobs /mnt'`,
  usage: bothUsages("MOUNTPOINT"),
  args: {
    image: { type: "positional", required: false, description: "Nydus image, by any name that 'nydus convert' takes" },
    mountpoint: { type: "positional", required: false, description: "Existing directory" },
    ...IMAGE_ARGS,
    options: {
      type: "string",
      alias: "o",
      valueHint: "OPTION,...",
      description:
        "Mount options as fusermount3 has them: allow_other, suid, dev, noexec, fsname=, subtype=, max_read=",
    },
    foreground: { type: "boolean", description: "Serve the mount in this process" },
    engine: {
      type: "enum",
      options: Object.keys(ENGINES),
      default: DEFAULT_ENGINE,
      description: "How to mount; auto is erofs where that works, else fuse",
    },
    "read-timeout": {
      type: "string",
      valueHint: "TIME",
      default: "30s",
      description: "Fail a read that gets no data for so long",
    },
    prefetch: {
      type: "string",
      valueHint: "all|none|FILE",
      description:
        "Fetch before it is read: all, nothing, or the paths in FILE, one a line (default what the image says)",
    },
    "prefetch-rate": {
      type: "string",
      valueHint: "SIZE",
      description: "At most so many uncompressed bytes a second of it",
    },
    trace: {
      type: "string",
      valueHint: "FILE",
      description: "Write to FILE what is read first, in order, a JSON line each",
    },
    threads: {
      type: "string",
      valueHint: "N",
      default: "2",
      description: "Threads that answer the kernel, if this starts the daemon",
    },
  },
  async run(args, context) {
    const { image, rest } = chooseImage(args, [args.image, args.mountpoint]);
    const [mountpoint] = rest;
    if (mountpoint === undefined)
      throw new NydusError("EINVAL", "Missing argument MOUNTPOINT; see 'nydus mount --help'");
    const rate = args["prefetch-rate"];
    const request: MountRequest = {
      image,
      imageArgs: args,
      mountpoint,
      engine: parseChoice("engine", args.engine, Object.keys(ENGINES) as EngineName[]),
      threads: threadCount(args.threads),
      readTimeoutMs: parseDuration("read-timeout", args["read-timeout"]),
      options: args.options ?? "",
      prefetch: prefetchOf(args.prefetch),
      trace: args.trace === undefined ? undefined : resolve(args.trace),
      prefetchBytesPerSec: rate === undefined ? undefined : Math.max(1, parseSize("prefetch-rate", rate)),
    };
    if (args.foreground === true) await mountInForeground(request, context);
    else await mountInDaemon(request, context);
    return 0;
  },
});
