import type { Benchmark, Figures } from "../benchmark.ts";
import { ContainerdHost, needContainerd, type Snapshotter } from "../containerd.ts";
import { type Lab, needMounting } from "../lab.ts";
import { pushImage, startRegistry } from "../registry.ts";
import { type ShapingProxy, startShapingProxy } from "../shaping-proxy.ts";
import { OVERLAYFS, ourSnapshotter, type PeerChoice, peerSnapshotter } from "../snapshotters.ts";

/** The link between the registry and the machine. */
const LINK = { bitsPerSecond: 400e6, roundTripMs: 10 } as const;
const REPOSITORY = "bench/image";
const COMMAND = ["python3", "-c", "import numpy"];
const MEGA = 1e6;
/** Without bringing the whole image in the background: its first read would share the link with that. */
const PEER: PeerChoice = { daemonMode: "shared", prefetchAll: false };

interface World {
  readonly proxy: ShapingProxy;
  readonly images: Readonly<Record<"nydus" | "oci", string>>;
}

/** A registry behind a link, with the image in both forms. */
async function openWorld(lab: Lab): Promise<World> {
  needMounting();
  needContainerd();
  const { layout } = await lab.rafs();
  const registry = await startRegistry(lab);
  await pushImage(lab, layout.name, `docker://127.0.0.1:${registry}/${REPOSITORY}:nydus`);
  await pushImage(lab, lab.image.name, `docker://127.0.0.1:${registry}/${REPOSITORY}:oci`);
  const proxy = lab.own(await startShapingProxy(registry, LINK));
  const name = `127.0.0.1:${proxy.port}/${REPOSITORY}`;
  return { proxy, images: { nydus: `${name}:nydus`, oci: `${name}:oci` } };
}

/** From the start of the pull to the end of the program, on a containerd and a snapshotter that know nothing. */
async function pullAndRun(
  lab: Lab,
  snapshotter: Snapshotter,
  { proxy, images }: World,
): Promise<{ seconds: number; megabytes: number }> {
  const image = snapshotter === OVERLAYFS ? images.oci : images.nydus;
  await using host = await ContainerdHost.start(lab, snapshotter);
  await lab.dropCaches();
  const before = proxy.traffic.downBytes;
  const start = performance.now();
  await host.nerdctl("pull", "--quiet", image);
  await host.nerdctl("run", "--net", "none", image, ...COMMAND);
  const seconds = (performance.now() - start) / 1000;
  return { seconds, megabytes: (proxy.traffic.downBytes - before) / MEGA };
}

/** A container's first start with ours, beside another snapshotter. */
function firstStart(
  {
    name,
    peer,
    suffix,
    ratio,
  }: { readonly name: string; readonly peer: string; readonly suffix: string; readonly ratio: number },
  other: (lab: Lab) => Snapshotter | undefined,
): Benchmark {
  const [time, bytes] = [`run-time${suffix}`, `run-bytes${suffix}`];
  return {
    name,
    peer,
    rows: [
      { name: time, title: "nerdctl pull, run `import numpy`", unit: "s", better: "less", target: { ratio } },
      { name: bytes, title: "Bytes fetched by it", unit: "MB", better: "less" },
    ],
    prepare: async (lab) => {
      const world = await openWorld(lab);
      const figures = async (snapshotter: Snapshotter): Promise<Figures> => {
        const { seconds, megabytes } = await pullAndRun(lab, snapshotter, world);
        return { [time]: seconds, [bytes]: megabytes };
      };
      const [ours, theirs] = [ourSnapshotter(lab), other(lab)];
      return { ours: () => figures(ours), peer: theirs && (() => figures(theirs)) };
    },
  };
}

export const containerdRun = firstStart(
  { name: "containerd-run", peer: "nydus-snapshotter", suffix: "", ratio: 1 },
  (lab) => peerSnapshotter(lab, PEER),
);

/** The same, beside the image as it was. */
export const containerdRunOci = firstStart(
  { name: "containerd-run-oci", peer: "OCI, overlayfs", suffix: "-oci", ratio: 0.22 },
  () => OVERLAYFS,
);
