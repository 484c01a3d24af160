import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { equalBytes } from "../../base/bytes.ts";
import { hexOf } from "../../base/digest.ts";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { Closers } from "../../content/store/closers.ts";
import type { BlobSink } from "../../content/store/store.ts";
import { writeTar } from "../../format/tar/writer.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { MNT_DETACH, unmount } from "../../os/mount.ts";
import { hasLibc, libc, systemFailure } from "../../os/syscall.ts";
import { buildLayer } from "../build/layer.ts";
import { mergeBuiltLayers } from "../build/merge.ts";
import { MountSources } from "../image/mount-source.ts";
import { DEFAULT_ENGINE, ENGINES } from "../mount/engines.ts";
import { atExit } from "../mount/serve.ts";
import { leaveNothing, startServing } from "../mount/served-mount.ts";
import { type Check, type DoctorEnv, type Finding, fail, ok } from "./checks.ts";
import { isWritable } from "./programs.ts";

/** Of the file in the image: two chunks, one of them short, that do not compress to nothing. */
const FILE_BYTES = 300_001;
const CHUNK_BYTES = 1 << 18;
const FILE_NAME = "file";
const BUILD = { compressor: "zstd", level: 1, digester: "blake3", chunkBytes: CHUNK_BYTES } as const;

/** An image made on the spot is mounted and read, and overlaid as for a container; nothing of it stays. */
export const MOUNT_CHECKS: readonly Check[] = [{ name: "test mount", run: checkMount }];

interface TestImage {
  readonly bootstrapPath: string;
  readonly blobDir: string;
  readonly content: Uint8Array;
}

async function checkMount(env: DoctorEnv): Promise<Finding> {
  const dir = mkdtempSync(join(isWritable(env.root) ? env.root : tmpdir(), ".doctor-"));
  using _exit = atExit(() => rmSync(dir, { recursive: true, force: true }));
  try {
    const image = await makeImage(dir);
    return await mountAndRead(dir, image, env);
  } catch (error) {
    env.signal.throwIfAborted();
    return fail(formatError(asNydusError(error)), "see the checks of fuse above");
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function makeImage(dir: string): Promise<TestImage> {
  const blobDir = join(dir, "blobs");
  mkdirSync(blobDir);
  const content = new Uint8Array(FILE_BYTES);
  content.set(randomBytes(FILE_BYTES >> 1));
  const path = new TextEncoder().encode(FILE_NAME);
  const tar = writeTar([{ path, type: "file", mode: 0o644, sizeBytes: content.length, content: [content] }]);
  await using pool = openCodecPool();
  const layer = await buildLayer(tar, new DirSink(blobDir), { codecs: await loadCodecs(), pool, options: BUILD });
  const bootstrapPath = join(dir, "image.boot");
  writeFileSync(bootstrapPath, mergeBuiltLayers([layer], BUILD).bootstrap);
  return { bootstrapPath, blobDir, content };
}

/** Keeps a small blob in memory and writes it to a directory under its digest. */
class DirSink implements BlobSink {
  readonly #dir: string;
  readonly #pieces: Uint8Array[] = [];

  constructor(dir: string) {
    this.#dir = dir;
  }

  async write(data: Uint8Array): Promise<void> {
    this.#pieces.push(data.slice());
  }

  async commit(digest: Parameters<BlobSink["commit"]>[0]): Promise<void> {
    writeFileSync(join(this.#dir, hexOf(digest)), Buffer.concat(this.#pieces));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#pieces.length = 0;
  }
}

/** Reads go through the thread pool: this very process answers them. */
async function mountAndRead(root: string, image: TestImage, { uid, signal }: DoctorEnv): Promise<Finding> {
  const mountpoint = join(root, "mnt");
  mkdirSync(mountpoint);
  await using stack = new Closers();
  const sources = stack.use(new MountSources(root));
  const host = stack.use(ENGINES[DEFAULT_ENGINE].open({ threads: 1 }));
  const { bootstrapPath, blobDir, content } = image;
  const open = (): ReturnType<MountSources["open"]> => sources.open({ bootstrapPath, blobDir }, { signal });
  const mount = await startServing({ root, mountpoint, image: "doctor", engine: DEFAULT_ENGINE, host, open, signal });
  const { engine } = mount.record;
  using _exit = atExit(() => leaveNothing(root, mount.record));
  try {
    await compareFile(join(mountpoint, FILE_NAME), content);
    if (uid !== 0 || !hasLibc()) return ok(`an image was mounted by ${engine} and read`);
    await overlayAndRead(root, mountpoint, content);
    return ok(`an image was mounted by ${engine}, overlaid and read`);
  } finally {
    await mount.session[Symbol.asyncDispose]();
    await mount.ended;
  }
}

async function compareFile(path: string, content: Uint8Array): Promise<void> {
  const read = await readFile(path);
  if (!equalBytes(read, content)) {
    throw new NydusError("EBADMSG", `Cannot read test image: ${read.length} bytes came, and they are others`);
  }
}

/** What containers get: an overlay whose lower directory is the mount, and whose upper one is in the state directory. */
async function overlayAndRead(dir: string, lower: string, content: Uint8Array): Promise<void> {
  const [upper, work, target] = ["upper", "work", "merged"].map((name) => join(dir, name)) as [string, string, string];
  for (const one of [upper, work, target]) mkdirSync(one);
  const data = `lowerdir=${quote(lower)},upperdir=${quote(upper)},workdir=${quote(work)}`;
  const errno = libc().mount({ source: "overlay", target, type: "overlay", flags: 0, data });
  if (errno !== 0) throw systemFailure(errno, "mount overlayfs on the image (is the state directory on overlayfs?)");
  using _exit = atExit(() => void unmount(target, MNT_DETACH));
  try {
    await compareFile(join(target, FILE_NAME), content);
    await writeFile(join(target, "new"), content);
    await compareFile(join(target, "new"), content);
  } finally {
    unmount(target, MNT_DETACH);
  }
}

function quote(path: string): string {
  return path.replace(/[\\,:]/g, "\\$&");
}
