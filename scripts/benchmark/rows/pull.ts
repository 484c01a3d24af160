import { rmSync } from "node:fs";
import { join } from "node:path";
import { type Benchmark, Missing } from "../benchmark.ts";
import { type Lab, needProgram } from "../lab.ts";
import { runCommand } from "../process.ts";
import { pushImage, startRegistry } from "../registry.ts";

const REPOSITORY = "bench/image";

/** @throws Missing until `nydus pull` is there */
async function needPull(lab: Lab): Promise<void> {
  await runCommand([lab.nydus, "pull", "--help"]).catch(() => {
    throw new Missing("nydus pull is not there yet");
  });
}

/** Seconds of a command that fills a directory, which is removed again. */
async function timeFill(lab: Lab, command: (dir: string) => string[]): Promise<number> {
  const dir = lab.scratch();
  await lab.settle();
  const { seconds } = await lab.run(command(dir));
  rmSync(dir, { recursive: true });
  return seconds;
}

/** Bringing an image from a registry on this machine. */
export const pull: Benchmark = {
  name: "pull",
  peer: "skopeo copy",
  rows: [{ name: "pull", title: "Pull from a local registry", unit: "s", better: "less", target: { ratio: 1 } }],
  prepare: async (lab) => {
    await needPull(lab);
    const skopeo = needProgram("skopeo");
    const { layout } = await lab.rafs();
    const image = `docker://127.0.0.1:${await startRegistry(lab)}/${REPOSITORY}:nydus`;
    await pushImage(lab, layout.name, image);
    const copy = [skopeo, "copy", "--quiet", "--src-tls-verify=false", image];
    return {
      ours: async () => ({
        pull: await timeFill(lab, (dir) => [lab.nydus, "--root", join(dir, "state"), "pull", "--quiet", image]),
      }),
      peer: async () => ({ pull: await timeFill(lab, (dir) => [...copy, `oci:${join(dir, "layout")}:image`]) }),
    };
  },
};
