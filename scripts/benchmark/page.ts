import type { RowResult } from "./benchmark.ts";
import { formatMark, formatRatio, formatSamples, formatTarget } from "./format.ts";
import type { Results } from "./results.ts";

const MEGA = 1e6;

function tableRow(result: RowResult): string {
  const { title, unit, better, ours, peer, peerName } = result;
  const beside = peer === undefined ? "" : `${formatSamples(peer)} ${peerName}`;
  const goal = formatTarget(result);
  const cells = [`${title}, ${unit} (${better})`, formatSamples(ours), beside, formatRatio(result), goal];
  return `| ${[...cells, formatMark(result)].join(" | ")} |`;
}

function imageFacts({ image }: Results): string {
  const megabytes = (bytes: number): string => `${Math.round(bytes / MEGA)} MB`;
  const layers = image.layers.map((layer) => `${megabytes(layer.gzipBytes)} (${megabytes(layer.tarBytes)} of tar)`);
  return `${image.layers.length} gzip layers: ${layers.join(" and ")}`;
}

/** The page of the results: how they came about, and how to repeat them. */
export function writePage(results: Results): string {
  const { surroundings, rows, without, runs, date } = results;
  const versions = Object.entries(surroundings.versions).map(([name, version]) => `${name} ${version}`);
  const missing = without.map(({ name, reason }) => `- ${name}: ${reason}`);
  return `# Benchmark

![The figures of the table as bars](benchmark.svg)

This page and its chart are written by \`scripts/bench --docs\`; do not edit them.

## How to repeat it

\`\`\`
scripts/bench                    # all of it, as root, some minutes; the first run installs the peers and makes the image
scripts/bench --only read-cold   # one figure; --list names them, --help has the rest
scripts/bench --docs             # and writes this page
scripts/peers containerd nerdctl nydus-snapshotter   # once, some minutes: builds what the rows under containerd need
\`\`\`

The peers are \`nydus-image\` and \`nydusd\` of \`cargo install nydus-rs --version 2.2.0 --locked\` (\`PEERS=DIR\`: \`DIR/bin\` has
them already). skopeo, docker-registry and fio are used where they are installed. The image, Debian by debootstrap with
python3-numpy on top, is made once into \`dist/bench\` (\`NYDUS_BENCH_DIR\`); \`--image oci:DIR:REF\` takes another one.
Everything runs on a disk, in a directory that is removed at the end. What a machine lacks (root, Linux 6.14 for the rows
of the EROFS engine, a program) is named, and its rows are left out.

Ours and the peer run in turn, ${runs} times each, who begins changing each time (memory and sizes: once or twice); the table
has the medians, and in brackets the least and the most. All is written out before each run, and the kernel's caches are
emptied where the row says so. Ratios are what counts: the peer ran in the same minutes on the same machine.

## Figures

| what (what is better) | ours | peer | ours / peer | target | |
| --- | --- | --- | --- | --- | --- |
${rows.map(tableRow).join("\n")}
${missing.length === 0 ? "" : `\nWithout figures here:\n\n${missing.join("\n")}\n`}
- Converting: seconds from start to end of the program, as megabytes of tar a second. \`nydus-image create --type targz-rafs\`
  converts each layer in turn and \`nydus-image merge\` joins them; \`nydus convert\` also verifies the layers' digests and
  writes a whole image. Both compress by zstd, level 3, in chunks of 1 MiB, digested by BLAKE3.
- Mounts: both programs serve the blobs that \`nydus convert\` wrote, nydusd (FUSE, four threads) with a \`blobcache\`, no
  prefetch and, as for containers, without checking digests, which \`nydus\` always does. The first pass fetches,
  decompresses and caches; the second finds its data there. Reads: \`find -type f -exec cat\`;
  fio with two jobs over one file (random) and one job over the eight largest (sequential), cached by the program.
- FUSE, EROFS: the engine, \`nydus mount --engine\`. *Plain EROFS* is the kernel's driver alone, over the same
  bootstrap and the same data files when all of them are full, with nobody to ask: the most that an engine could reach.
  Ours is measured there 1.5 s after mounting a full cache, when it has seen that nothing is missing. *Warm*: fio over the
  eight largest files, all in the page cache.
- Cold import: \`chroot MOUNTPOINT python3 -c 'import numpy'\` in a new mount of an image in docker-registry, behind a proxy that
  plays a link of 400 Mbit/s with 10 ms a round trip (\`scripts/bench proxy\`). Mounting is not counted, nor its bytes.
- containerd: \`nerdctl pull\` and \`nerdctl run IMAGE python3 -c 'import numpy'\` over the same link, with a containerd, a
  snapshotter and a cache that are new and empty: \`nydus snapshotter\` beside containerd-nydus-grpc with nydusd, configured
  as its samples are but for prefetching everything, and beside the gzip image on overlayfs.
- Memory: of all processes that serve the mounts, with what only watches over them; pages that two of them share count
  twice. 20 mounts of nydusd are one process. *containerd, 20 images*: the snapshotter and all that it has started while
  a container of each of 20 images runs \`sleep\`; the images share blobs, and each has a bootstrap of its own.
- WASM core: pieces of 1 MiB of the image, one thread, beside the same operation of Bun where it has one; results
  are given back at once, as the program does, so that decoding does not measure the garbage collector.

## Where

${surroundings.cpu}, ${surroundings.cores} cores, ${surroundings.memoryGib} GiB; ${surroundings.system}, Linux ${surroundings.kernel};
load ${surroundings.load.toFixed(2)} at the start; ${date.slice(0, 10)}.
${versions.join(", ")}.
Image: ${imageFacts(results)}.
`;
}
