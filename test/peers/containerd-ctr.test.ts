import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { digestsOf, missingDigests, OUTPUT_DIR, OutputFile, SUM_FILES } from "../kit/container-tree.ts";
import { ContainerdHost } from "../kit/containerd.ts";
import { GOLDEN_IMAGES, type GoldenImage, goldenTree, pushGolden } from "../kit/containerd-images.ts";
import { type DockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { mountsBelow } from "../kit/leftovers.ts";
import { BUSYBOX, type Containerd, findContainerds, missingPeers } from "../kit/peers.ts";

/** containerd 1's ctr unpacks by itself, without the annotations that Nydus images need. */
function imagesOf({ configVersion }: Containerd): readonly GoldenImage[] {
  return configVersion === 2 ? ["oci", "docker"] : GOLDEN_IMAGES;
}

describe.skipIf(missingPeers().length > 0).each(findContainerds())("ctr with $name", (containerd) => {
  let host: ContainerdHost;
  let registry: DockerRegistry;
  beforeAll(async () => {
    registry = await startDockerRegistry();
    host = await ContainerdHost.start(containerd);
  });
  afterAll(async () => {
    await host?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  /** Runs busybox in a new container. @returns what it prints */
  async function runOnce(image: string, ...command: string[]): Promise<string> {
    const output = new OutputFile(host);
    const mounts = [
      `type=bind,src=${BUSYBOX},dst=/busybox,options=rbind:ro`,
      `type=bind,src=${output.dir},dst=${OUTPUT_DIR},options=rbind:rw`,
    ];
    const flags = ["--rm", "--null-io", "--snapshotter", "nydus", ...mounts.flatMap((mount) => ["--mount", mount])];
    const { status } = await host.ctr("run", ...flags, image, `c${Bun.randomUUIDv7()}`, ...output.command(command));
    return output.read(status);
  }

  test.each(imagesOf(containerd))("pulls and runs %s, whose files have the right bytes", async (name) => {
    const image = await pushGolden(registry.host, name);
    await host.ok("ctr", "images", "pull", "--plain-http", "--snapshotter", "nydus", image);
    const printed = await runOnce(image, ...SUM_FILES);
    expect(missingDigests(goldenTree(), digestsOf(printed))).toEqual([]);
  });

  test("removes the images and all that they took", async () => {
    const images = imagesOf(containerd).map((name) => `${registry.host}/golden:${name}`);
    await host.ok("ctr", "images", "rm", "--sync", ...images);
    expect(await host.listed("snapshots", "--snapshotter", "nydus", "ls")).toEqual([]);
    expect(await host.listed("content", "ls", "-q")).toEqual([]);
    expect(mountsBelow(host.dir)).toEqual([]);
  });
});
