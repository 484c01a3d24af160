// A program that mounts a lab image by EROFS with slow devices, to be killed: it says which process guards it.
// bun erofs-program.ts BOOTSTRAP MOUNTPOINT SEED [BLOBS FILES]
import { readdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { openErofsHost } from "../../src/operation/mount/erofs/engine.ts";
import { mapFile } from "../../src/os/mmap.ts";
import { makeLabImage } from "./erofs-lab.ts";

const [bootstrapPath = "", mountpoint = "", seed = "1", blobs = "2", files = "60"] = process.argv.slice(2);

/** The child of this process that is the guard. */
function guardPid(): number | undefined {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((pid) => parentOf(pid) === process.pid);
}

function parentOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  } catch {
    return 0; // gone
  }
}

const shape = { blobs: Number(blobs), filesPerBlob: Number(files), fileBytes: 150_000, seed: Number(seed) };
const devices = makeLabImage(dirname(bootstrapPath), shape).openDevices();
for (const device of devices) device.before = () => Bun.sleep(Math.random() * 20);
const host = openErofsHost();
await host.mount({ mountpoint, bootstrap: mapFile(bootstrapPath), devices, readTimeoutMs: 5_000 });
let last = guardPid();
console.log(`guard ${last}`);
setInterval(() => {
  const now = guardPid();
  if (now === undefined || now === last) return;
  last = now;
  console.log(`guard ${now}`);
}, 50);
