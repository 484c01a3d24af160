import { closeSync, openSync, readSync } from "node:fs";
import { loadKernels } from "../../../src/format/codec/kernels.ts";
import type { Benchmark } from "../benchmark.ts";
import type { Lab } from "../lab.ts";

/** Real data in pieces of this size: the chunk size that images have. */
const PIECE_BYTES = 1 << 20;
const PIECES = 32;
/** How long each operation runs for one figure, after as much again to get warm. */
const MEASURE_MS = 250;
const ZSTD_LEVEL = 3;

/** Decompressed content of the last layer: programs and libraries, as images have them. */
function samplePieces(lab: Lab): Uint8Array<ArrayBuffer>[] {
  const layer = lab.image.layers.at(-1);
  if (layer === undefined) throw new Error("the image has no layers");
  const packed = Buffer.alloc(layer.sizeBytes);
  const fd = openSync(layer.path, "r");
  try {
    readSync(fd, packed);
  } finally {
    closeSync(fd);
  }
  const tar = Bun.gunzipSync(packed);
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  for (let at = 0; at + PIECE_BYTES <= tar.length && pieces.length < PIECES; at += PIECE_BYTES) {
    pieces.push(tar.slice(at, at + PIECE_BYTES));
  }
  return pieces;
}

/**
 * Decompressed bytes a second, GB/s, of an operation on each of `inputs` in turn. What it gives is given back at once, as
 * the program does with decoded chunks: left to the collector, it takes longer than decoding LZ4.
 */
function speed<T>(inputs: readonly T[], work: (input: T) => ArrayBufferView): number {
  const run = (forMs: number): number => {
    const start = performance.now();
    let bytes = 0;
    let elapsed = 0;
    for (let i = 0; elapsed < forMs; i++) {
      const { buffer } = work(inputs[i % inputs.length] as T);
      if (buffer instanceof ArrayBuffer && buffer.byteLength >= PIECE_BYTES) buffer.transfer(0);
      bytes += PIECE_BYTES;
      elapsed = performance.now() - start;
    }
    return bytes / 1e6 / elapsed;
  };
  run(MEASURE_MS);
  return run(MEASURE_MS);
}

/** The WASM core beside what the runtime brings, in this process. */
export const coreSpeed: Benchmark = {
  name: "core",
  peer: "Bun's own",
  rows: [
    {
      name: "core-blake3",
      title: "WASM core: BLAKE3",
      unit: "GB/s",
      better: "more",
      target: { figure: 1.2 },
    },
    {
      name: "core-zstd",
      title: "WASM core: zstd decoding",
      unit: "GB/s",
      better: "more",
      target: { figure: 0.45 },
    },
    {
      name: "core-lz4",
      title: "WASM core: LZ4 decoding",
      unit: "GB/s",
      better: "more",
      target: { figure: 1.5 },
    },
    { name: "core-inflate", title: "WASM core: inflate", unit: "GB/s", better: "more" },
    { name: "core-sha256", title: "WASM core: SHA-256", unit: "GB/s", better: "more" },
  ],
  prepare: async (lab) => {
    const plain = samplePieces(lab);
    const kernels = await loadKernels();
    const zstd = plain.map((piece) => Bun.zstdCompressSync(piece, { level: ZSTD_LEVEL }));
    const lz4 = plain.map((piece) => kernels.lz4Compress(piece));
    const gzip = plain.map((piece) => Bun.gzipSync(piece));
    return {
      ours: async () => ({
        "core-blake3": speed(plain, (piece) => kernels.blake3(piece)),
        "core-zstd": speed(zstd, (piece) => kernels.zstdDecompress(piece, PIECE_BYTES)),
        "core-lz4": speed(lz4, (piece) => kernels.lz4Decompress(piece, PIECE_BYTES)),
        "core-inflate": speed(gzip, (piece) => kernels.inflate("gzip", piece, PIECE_BYTES)),
        "core-sha256": speed(plain, (piece) => kernels.sha256(piece)),
      }),
      peer: async () => ({
        "core-zstd": speed(zstd, (piece) => Bun.zstdDecompressSync(piece)),
        "core-inflate": speed(gzip, (piece) => Bun.gunzipSync(piece)),
        "core-sha256": speed(plain, (piece) => Bun.SHA256.hash(piece)),
      }),
    };
  },
};
