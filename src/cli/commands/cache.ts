import { NydusError } from "../../base/errors.ts";
import {
  type CacheInfo,
  type CacheVerification,
  collectStoredCaches,
  listStoredCaches,
  verifyCaches,
} from "../../operation/image/cache-admin.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { formatTable, printJson, printStderr, printText } from "../output.ts";
import { formatBytes, shortDigest } from "../progress.ts";
import { badValue, parseSize } from "../values.ts";

/** Exit status when cached data was damaged: that of a digest mismatch. */
const DAMAGED_STATUS = 5;

interface CacheArguments {
  readonly "max-size"?: string | undefined;
  readonly digests?: boolean | undefined;
}

type Action = (context: CliContext, args: CacheArguments, blobs: readonly string[]) => Promise<number>;

const ACTIONS = { ls, du, verify, gc } satisfies Record<string, Action>;

async function ls(context: CliContext, args: CacheArguments): Promise<number> {
  const caches = await listStoredCaches(context.root);
  if (context.json) await printJson(caches.map((cache) => ({ ...cache, lastUsed: isoTime(cache.lastUsedMs) })));
  else
    await printText(
      formatTable(["BLOB", ">SIZE", ">FILLED", ">CHUNKS", ">DISK", "LAST USED", "USED BY"], rows(caches, args)),
    );
  return 0;
}

function rows(caches: readonly CacheInfo[], { digests }: CacheArguments): string[][] {
  return caches.map((cache) => [
    digests === true ? cache.digest : shortDigest(cache.digest),
    formatBytes(cache.deviceBytes),
    formatBytes(cache.filledBytes),
    `${cache.filledChunks}`,
    formatBytes(cache.diskBytes),
    isoTime(cache.lastUsedMs).slice(0, 16).replace("T", " "),
    cache.mountpoints.join(" ") || (cache.isInUse ? "a process" : ""),
  ]);
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}

async function du({ root, json }: CliContext): Promise<number> {
  const caches = await listStoredCaches(root);
  const sum = (field: "deviceBytes" | "filledBytes" | "diskBytes"): number =>
    caches.reduce((total, cache) => total + cache[field], 0);
  const inUseBytes = caches.reduce((total, { isInUse, diskBytes }) => total + (isInUse ? diskBytes : 0), 0);
  const total = { caches: caches.length, diskBytes: sum("diskBytes"), inUseBytes };
  if (json) await printJson({ ...total, filledBytes: sum("filledBytes"), deviceBytes: sum("deviceBytes") });
  else
    await printText(`${formatBytes(total.diskBytes)} in ${total.caches} caches, ${formatBytes(inUseBytes)} in use\n`);
  return 0;
}

async function verify(context: CliContext, _args: CacheArguments, blobs: readonly string[]): Promise<number> {
  const found: CacheVerification[] = [];
  for await (const cache of verifyCaches(context.root, { wanted: blobs, signal: context.signal })) {
    found.push(cache);
    if (!context.json) await printVerification(cache, context);
  }
  if (context.json) await printJson(found);
  return found.some(({ bad }) => bad.length > 0) ? DAMAGED_STATUS : 0;
}

async function printVerification(
  { digest, chunks, bytes, bad, isDropped }: CacheVerification,
  { quiet }: CliContext,
): Promise<void> {
  const fate = isDropped ? "dropped" : "in use: unmount and verify again";
  for (const { deviceOffset, sizeBytes } of bad) {
    printStderr(`nydus: damaged: ${sizeBytes} bytes at ${deviceOffset} of ${digest} (${fate})\n`);
  }
  if (!quiet) await printText(`${digest}  ${chunks} chunks, ${formatBytes(bytes)}, ${bad.length} damaged\n`);
}

async function gc({ root, json, quiet }: CliContext, args: CacheArguments): Promise<number> {
  const text = args["max-size"];
  if (text === undefined) throw new NydusError("EINVAL", "Missing flag --max-size; see 'nydus cache --help'");
  const maxBytes = parseSize("max-size", text);
  const { removed, keptBytes, inUseBytes } = await collectStoredCaches(root, maxBytes);
  if (json) await printJson({ removed, keptBytes, inUseBytes });
  else if (quiet) await printText(removed.map(({ digest }) => `${digest}\n`).join(""));
  else {
    const freed = removed.reduce((sum, { diskBytes }) => sum + diskBytes, 0);
    await printText(`${removed.length} caches removed, ${formatBytes(freed)} freed, ${formatBytes(keptBytes)} kept\n`);
  }
  if (keptBytes > maxBytes) printStderr(`nydus: ${formatBytes(inUseBytes)} are in use and stay\n`);
  return 0;
}

/** `nydus cache` */
export const cacheCommand = nydusCommand({
  description: `Look after the cached data of lazily read images

'ls' lists a cache for each blob: the blob's uncompressed size, how much of it is there, what that takes of the disk,
when it was last used, and by which mounts it is. 'du' sums up. 'verify' checks every chunk against its digest, drops
what is damaged, to be fetched again, and ends with status 5 if there was any. 'gc' removes the least recently used
caches until all together take at most --max-size of the disk; what a mount or another process uses stays.

e.g., 'nydus cache gc --max-size 20GiB'`,
  usage: ["ls [--digests]", "du", "verify [BLOB...]", "gc --max-size SIZE"],
  args: {
    action: { type: "positional", required: true, description: "One of ls, du, verify, gc" },
    blob: {
      type: "positional",
      required: false,
      valueHint: "BLOB...",
      description: "First digits of a blob's digest",
    },
    "max-size": { type: "string", valueHint: "SIZE", description: "What caches may take of the disk" },
    digests: { type: "boolean", description: "Show digests whole" },
  },
  async run(args, context) {
    const action = Object.hasOwn(ACTIONS, args.action) ? (args.action as keyof typeof ACTIONS) : undefined;
    if (action === undefined) {
      const wanted = `one of ${Object.keys(ACTIONS).join(", ")}`;
      throw new NydusError("EINVAL", `Unknown action ${JSON.stringify(args.action)}: it is ${wanted}`);
    }
    const blobs = args._.slice(1);
    if (blobs.length > 0 && action !== "verify") throw badValue("action", args.action, "no argument behind it");
    const run: Action = ACTIONS[action];
    return await run(context, args, blobs);
  },
});
