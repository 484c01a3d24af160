import { existsSync, readdirSync } from "node:fs";
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

/** How the image is mounted, one after the other. The first time `auto` takes FUSE, and checks the bootstrap meanwhile. */
const ROUNDS = ["auto", "erofs", "fuse"] as const;
/** How long that check may take. */
const CHECK_TIMEOUT_MS = 60_000;

/**
 * Mounts an image of so many files by each engine, lists it, and prints what that took.
 * @returns whether it was within the limits
 */
export async function mountManyFiles(files: number): Promise<boolean> {
  await using home = new DaemonHome();
  await makeImage(home.dir, files);
  await shell("sync"); // what was written just now is not to be paid for by the mount
  let isGood = true;
  for (const engine of ROUNDS) {
    if (engine === "erofs" && !(await untilChecked(home))) {
      console.log("erofs: not measured, auto has not had the bootstrap checked: EROFS does not work here");
      continue;
    }
    isGood = (await measure(home, engine, files)) && isGood;
    await home.ok("daemon", "stop");
  }
  return isGood;
}

async function measure(home: DaemonHome, engine: (typeof ROUNDS)[number], files: number): Promise<boolean> {
  const at = home.mountpoint("a");
  const begin = performance.now();
  const image = ["--bootstrap", join(home.dir, "image.boot"), "--blob-dir", join(home.dir, "blobs")];
  await home.ok("mount", "--engine", engine, ...image, at);
  const seconds = (performance.now() - begin) / 1000;
  const pid = await home.pid();
  const mounted = memoryOf(pid, "RssAnon");
  const listing = performance.now();
  const found = Number(await shell(`find ${at} -type f -printf '%s\\n' | wc -l`));
  const listSeconds = (performance.now() - listing) / 1000;
  const listed = memoryOf(pid, "RssAnon");
  const kind = JSON.parse(await home.ok("mounts", "--json")) as readonly { readonly engine: string }[];
  const name = kind[0]?.engine === engine ? engine : `${engine} (${kind[0]?.engine})`;
  console.log(`${name}: ${files} files mounted in ${seconds.toFixed(2)} s (below ${LIMITS.seconds} s wanted)`);
  console.log(
    `  anonymous memory: ${mib(mounted)} mounted, ${mib(listed)} listed (below ${mib(LIMITS.anonymousKib)} wanted)`,
  );
  console.log(`  ${found} files listed in ${listSeconds.toFixed(1)} s`);
  const isSmall = mounted < LIMITS.anonymousKib && listed < LIMITS.anonymousKib;
  return seconds < LIMITS.seconds && isSmall && found === files;
}

/** Whether the check of the bootstrap that the first mount has begun is done. */
async function untilChecked({ root }: DaemonHome): Promise<boolean> {
  for (let waited = 0; waited < CHECK_TIMEOUT_MS; waited += 100) {
    if (existsSync(join(root, "checked")) && readdirSync(join(root, "checked")).length > 0) return true;
    await Bun.sleep(100);
  }
  return false;
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
