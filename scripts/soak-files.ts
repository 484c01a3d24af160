import { existsSync } from "node:fs";
import { join } from "node:path";
import { DaemonHome, memoryOf } from "../test/kit/daemon.ts";
import { isBuilt } from "../test/kit/program.ts";
import { run, shell } from "../test/kit/shell.ts";

/** What mounting an image may take, however many files it has. */
const LIMITS = { seconds: 1, anonymousKib: 100 * 1024 } as const;
const KIB_PER_MIB = 1024;

/** Why no image can be mounted here; undefined when one can. */
export function mountMissing(): string | undefined {
  if (!isBuilt) return "dist/nydus is not built";
  if (process.getuid?.() !== 0) return "mounting needs root";
  return existsSync("/dev/fuse") ? undefined : "there is no /dev/fuse";
}

/** Mounts an image of so many files, lists it, and prints what that took. @returns whether it was within the limits */
export async function mountManyFiles(files: number): Promise<boolean> {
  await using home = new DaemonHome();
  await makeImage(home.dir, files);
  const at = home.mountpoint("a");
  await shell("sync"); // what was written just now is not to be paid for by the mount
  const begin = performance.now();
  await home.ok("mount", "--bootstrap", join(home.dir, "image.boot"), "--blob-dir", join(home.dir, "blobs"), at);
  const seconds = (performance.now() - begin) / 1000;
  const pid = await home.pid();
  const mounted = memoryOf(pid, "RssAnon");
  const listing = performance.now();
  const found = Number(await shell(`find ${at} -type f -printf '%s\\n' | wc -l`));
  const listSeconds = (performance.now() - listing) / 1000;
  const listed = memoryOf(pid, "RssAnon");
  console.log(`${files} files: mounted in ${seconds.toFixed(2)} s (below ${LIMITS.seconds} s wanted)`);
  console.log(
    `anonymous memory: ${mib(mounted)} mounted, ${mib(listed)} listed (below ${mib(LIMITS.anonymousKib)} wanted)`,
  );
  console.log(`${found} files listed in ${listSeconds.toFixed(1)} s`);
  const isSmall = mounted < LIMITS.anonymousKib && listed < LIMITS.anonymousKib;
  return seconds < LIMITS.seconds && isSmall && found === files;
}

function mib(kib: number): string {
  return `${(kib / KIB_PER_MIB).toFixed(1)} MiB`;
}

/** Makes the image in a process of its own: its tree is larger than what is measured. */
async function makeImage(dir: string, files: number): Promise<void> {
  const kit = join(import.meta.dir, "..", "test", "kit", "synthetic-image.ts");
  const code = [
    `import { makeSyntheticImage } from ${JSON.stringify(kit)};`,
    `makeSyntheticImage(${JSON.stringify(dir)}, { files: ${files}, fileBytes: 16, seed: 1 });`,
  ].join("\n");
  const { status, stderr } = await run(process.execPath, "-e", code);
  if (status !== 0) throw new Error(`the image cannot be made: ${stderr}`);
}
