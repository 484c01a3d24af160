import { tmpdir } from "node:os";
import { openErofsHost } from "../mount/erofs/engine.ts";
import { probeErofs } from "../mount/erofs/probe.ts";
import { type Check, type DoctorEnv, type Finding, ok, skip } from "./checks.ts";
import { isWritable } from "./programs.ts";

/** Whether the kernel can show images by itself, asking for what is not there. */
export const ENGINE_CHECKS: readonly Check[] = [{ name: "erofs engine", run: checkErofsEngine }];

async function checkErofsEngine({ root, uid }: DoctorEnv): Promise<Finding> {
  if (uid !== 0) return skip("only root mounts EROFS");
  await using host = openErofsHost();
  const { works, why } = await probeErofs(host, isWritable(root) ? root : tmpdir());
  return works ? ok(why) : skip(`${why}; images are mounted by FUSE`);
}
