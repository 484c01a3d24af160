import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { differencesOfContainers, runOnce, startSleeper, treeOfContainer } from "../kit/container-tree.ts";
import { ContainerdHost } from "../kit/containerd.ts";
import { goldenTree, imageInLayout, pushGolden } from "../kit/containerd-images.ts";
import { type DockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { findContainerds, missingPeers } from "../kit/peers.ts";
import { PROGRAM } from "../kit/program.ts";

describe.skipIf(missingPeers().length > 0).each(findContainerds())(
  "images that $name has without a pull",
  (containerd) => {
    let host: ContainerdHost;
    let registry: DockerRegistry;
    let source: string;
    beforeAll(async () => {
      registry = await startDockerRegistry();
      source = await pushGolden(registry.host, "oci");
      host = await ContainerdHost.start(containerd);
      await host.ok("nerdctl", "pull", "-q", source);
      await registry.stop();
    });
    afterAll(async () => {
      await host?.[Symbol.asyncDispose]();
      await registry?.[Symbol.asyncDispose]();
    });

    function named(tag: string): string {
      return `${registry.host}/made:${tag}`;
    }

    /** Where a container of an image differs from what was converted. */
    async function differences(image: string): Promise<string[]> {
      const id = await startSleeper(host, image);
      try {
        return differencesOfContainers(goldenTree(), await treeOfContainer(host, id));
      } finally {
        await host.ok("nerdctl", "rm", "-f", id);
      }
    }

    /** A link to the program by the name of the builder that nerdctl calls. */
    function builder(): string {
      const dir = join(host.dir, "builder");
      mkdirSync(dir, { recursive: true });
      const link = join(dir, "nydus-image");
      symlinkSync(PROGRAM, link);
      return link;
    }

    test("nydus convert containerd:A containerd:B makes one that runs, also after A is gone", async () => {
      const copy = named("copy");
      await host.ok("nerdctl", "tag", source, copy);
      await host.ok("nydus", "convert", "--quiet", `containerd:${copy}`, `containerd:${named("converted")}`);
      await host.ok("nerdctl", "rmi", copy);
      await host.ok("nerdctl", "image", "prune", "-f");
      expect(await differences(named("converted"))).toEqual([]);
    });

    test("nydus copy brings a Nydus image from a file, and it runs", async () => {
      await host.ok("nydus", "copy", "--quiet", imageInLayout("nydus"), `containerd:${named("copied")}`);
      const tail = goldenTree().find(({ path }) => path === "/tail");
      expect(await runOnce(host, named("copied"), "sha256sum", "/tail")).toBe(`${tail?.sha256}  /tail`);
    });

    test("nerdctl image convert --nydus, with this program as its builder, makes one that nydus prepare readies", async () => {
      const target = named("by-nerdctl");
      const flags = ["--nydus", "--oci", "--nydus-builder-path", builder()];
      await host.ok("nerdctl", "image", "convert", ...flags, source, target);
      await host.ok("nydus", "prepare", "--quiet", target);
      expect(await differences(target)).toEqual([]);
    });

    test("that image is pushed, and pulled lazily after it was removed", async () => {
      const target = named("by-nerdctl");
      await registry.start();
      await host.ok("nerdctl", "push", "-q", target);
      await host.ok("nerdctl", "rmi", target);
      expect((await host.nerdctl("run", "--rm", "--pull", "never", target)).status).not.toBe(0);
      await host.ok("nerdctl", "pull", "-q", target);
      expect(await differences(target)).toEqual([]);
    });
  },
);
