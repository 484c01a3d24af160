import { closeSync, openSync, statSync } from "node:fs";
import { type Check, type DoctorEnv, type Finding, fail, ok, skip, warn } from "./checks.ts";
import { findProgram } from "./programs.ts";

const FUSE_DEVICE = "/dev/fuse";
/** Major 10, minor 229, as makedev(3) puts them together. */
const FUSE_RDEV = (10 << 8) | 229;
const FILE_SYSTEMS = "/proc/filesystems";
/** FUSE answers of more than 128 KiB, and symlinks that stay cached, are of this release. */
const WANTED_KERNEL = [4, 20] as const;
/** EROFS from plain files, without loop devices, is of this release. */
const EROFS_FILES_KERNEL = [6, 12] as const;
const WANTED_OPEN_FILES = 256;
const SETUID_BIT = 0o4000;
/** This program was not there before: a clock that says so is wrong, and certificates seem not to be valid yet. */
const EARLIEST_MS = Date.UTC(2025, 0, 1);
const LATEST_MS = Date.UTC(2100, 0, 1);

/** Checks of the kernel and of what a user may do with it. */
export const KERNEL_CHECKS: readonly Check[] = [
  { name: "kernel", run: checkKernel },
  { name: "fuse", run: async (env) => checkFileSystem(env, "fuse", "fail") },
  { name: "fuse device", run: checkFuseDevice },
  { name: "fusermount3", run: checkFusermount },
  { name: "overlayfs", run: async (env) => checkFileSystem(env, "overlay", env.uid === 0 ? "fail" : "skip") },
  { name: "erofs", run: checkErofs },
  { name: "open files", run: checkOpenFiles },
  { name: "clock", run: checkClock },
];

async function checkKernel({ kernelRelease }: DoctorEnv): Promise<Finding> {
  if (isAtLeast(kernelRelease, WANTED_KERNEL)) return ok(kernelRelease);
  return warn(`${kernelRelease} is old`, `update to ${WANTED_KERNEL.join(".")} or later`);
}

function isAtLeast(release: string, [major, minor]: readonly [number, number]): boolean {
  const found = /^(\d+)\.(\d+)/.exec(release);
  const [has, hasMinor] = [Number(found?.[1] ?? 0), Number(found?.[2] ?? 0)];
  return has > major || (has === major && hasMinor >= minor);
}

/** Also a module that is not loaded yet is in the list of its directory; both are looked at. */
function hasFileSystem(env: DoctorEnv, name: string): "there" | "module" | "missing" {
  const listed = (env.readText(FILE_SYSTEMS) ?? "").split("\n").some((line) => line.split("\t")[1] === name);
  if (listed) return "there";
  const modules = ["modules.dep", "modules.builtin"].map((file) => `/lib/modules/${env.kernelRelease}/${file}`);
  const isKnown = modules.some((path) => (env.readText(path) ?? "").includes(`/${name}.ko`));
  return isKnown ? "module" : "missing";
}

function checkFileSystem(env: DoctorEnv, name: string, missing: "fail" | "skip"): Finding {
  const found = hasFileSystem(env, name);
  if (found === "there") return ok("the kernel has it");
  if (missing === "skip") return skip("only root mounts it");
  if (found === "module") return warn("its module is not loaded", `modprobe ${name}`);
  return fail("the kernel does not have it", `modprobe ${name}, or another kernel`);
}

async function checkFuseDevice({ uid }: DoctorEnv): Promise<Finding> {
  let fd: number;
  try {
    if (statSync(FUSE_DEVICE).rdev !== FUSE_RDEV) {
      return fail(`${FUSE_DEVICE} is another file`, `remove it; mknod -m 666 ${FUSE_DEVICE} c 10 229`);
    }
    fd = openSync(FUSE_DEVICE, "r+");
  } catch (error) {
    return deviceFailure((error as { code?: unknown }).code, uid);
  }
  closeSync(fd);
  return ok(`${FUSE_DEVICE} opens`);
}

function deviceFailure(code: unknown, uid: number): Finding {
  if (code === "ENOENT") {
    const advice = `modprobe fuse; in a container, give it ${FUSE_DEVICE} (--device ${FUSE_DEVICE})`;
    return fail(`${FUSE_DEVICE} is not there`, advice);
  }
  if (code === "ENXIO" || code === "ENODEV") return fail(`${FUSE_DEVICE} has no driver`, "modprobe fuse");
  if (code === "EACCES" && uid !== 0) return fail(`${FUSE_DEVICE} may not be opened`, `chmod 666 ${FUSE_DEVICE}`);
  return fail(`${FUSE_DEVICE} does not open: ${code}`, "allow this container or control group to use the device");
}

async function checkFusermount({ uid, variables }: DoctorEnv): Promise<Finding> {
  if (uid === 0) return skip("root mounts without it");
  const path = findProgram("fusermount3", variables["PATH"]);
  if (path === undefined) return fail("it is not on PATH", "install the package fuse3, or mount as root");
  const { mode, uid: owner } = statSync(path);
  if (owner === 0 && (mode & SETUID_BIT) !== 0) return ok(path);
  return fail(`${path} is not set-user-ID root`, `chmod u+s ${path}`);
}

async function checkErofs(env: DoctorEnv): Promise<Finding> {
  const found = hasFileSystem(env, "erofs");
  if (found === "missing") return skip("the kernel does not have it; images are mounted by FUSE");
  const fromFiles = isAtLeast(env.kernelRelease, EROFS_FILES_KERNEL) ? ", also from files" : "";
  return ok(`the kernel has it${fromFiles}`);
}

async function checkOpenFiles({ readText }: DoctorEnv): Promise<Finding> {
  const limit = /^Max open files\s+(\S+)/m.exec(readText("/proc/self/limits") ?? "")?.[1];
  if (limit === undefined) return skip("the limit cannot be read");
  if (limit === "unlimited" || Number(limit) >= WANTED_OPEN_FILES) return ok(`up to ${limit}`);
  return warn(`only ${limit} at once`, `ulimit -n ${WANTED_OPEN_FILES} or more`);
}

async function checkClock({ now }: DoctorEnv): Promise<Finding> {
  const text = now.toISOString().slice(0, 19).replace("T", " ");
  if (now.getTime() >= EARLIEST_MS && now.getTime() < LATEST_MS) return ok(`${text} UTC`);
  return fail(`it says ${text} UTC`, "set the clock: registries' certificates seem not to be valid");
}
