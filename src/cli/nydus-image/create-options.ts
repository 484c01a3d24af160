import { COMMON_OPTIONS, type CommandShape } from "./option.ts";

/** Conversions that can be done, and from what. */
export const SOURCES = {
  "dir-rafs": "directory",
  directory: "directory",
  "tar-rafs": "tar",
  "targz-rafs": "gzip",
  "estargz-rafs": "gzip",
} as const;

/** What a layer is made from. */
export type SourceKind = (typeof SOURCES)[keyof typeof SOURCES];

/** Conversions of the real program that are not done here. */
export const OTHER_TYPES = ["estargz-ref", "estargztoc-ref", "tar-tarfs", "targz-ref", "stargz_index"] as const;

/**
 * `create`. nydus-snapshotter's converter looks into its help for what a builder can do: `--batch-size`, without which
 * it makes good images too, is not shown; `--encrypt` is, so that encryption fails instead of being left out silently.
 */
export const CREATE_SHAPE: CommandShape = {
  name: "nydus-image create",
  about: "Create RAFS filesystems (version 6) from directories or tar files",
  positional: { name: "SOURCE", isRequired: true, help: "Directory, tar file or pipe to build from" },
  options: [
    {
      long: "type",
      short: "t",
      aliases: ["source-type"],
      default: "dir-rafs",
      choices: [...Object.keys(SOURCES), ...OTHER_TYPES],
      help: `Conversion type; ${OTHER_TYPES.join(", ")} are not supported`,
    },
    {
      long: "bootstrap",
      short: "B",
      requiredUnless: ["blob-dir", "blob-inline-meta"],
      conflicts: ["blob-inline-meta"],
      help: "File for the bootstrap",
    },
    { long: "blob-dir", short: "D", help: "Directory for bootstrap and blob, each named by its SHA-256" },
    {
      long: "blob",
      short: "b",
      conflicts: ["blob-cache-dir"],
      help: "File or pipe for the blob",
    },
    {
      long: "blob-inline-meta",
      aliases: ["inline-bootstrap"],
      isFlag: true,
      conflicts: ["blob-id"],
      help: "Put the bootstrap into the blob",
    },
    { long: "blob-id", isHidden: true, help: "Id of the blob in other conversions" },
    { long: "blob-data-size", isHidden: true, help: "Size of the blob in other conversions" },
    { long: "blob-offset", isHidden: true, help: "Offset in the blob in other conversions" },
    {
      long: "blob-cache-dir",
      isHidden: true,
      conflicts: ["blob-inline-meta", "blob", "blob-dir", "compressor"],
      help: "",
    },
    { long: "chunk-size", help: "Bytes of a chunk, a power of two, 0x1000 to 0x1000000 [default: 0x100000]" },
    { long: "batch-size", isHidden: true, default: "0", help: "" },
    {
      long: "compressor",
      default: "zstd",
      choices: ["none", "lz4_block", "zstd"],
      help: "Algorithm to compress chunks",
    },
    { long: "digester", default: "blake3", choices: ["blake3", "sha256"], help: "Algorithm to digest chunks" },
    { long: "config", short: "C", help: "Taken for compatibility, and not read" },
    { long: "fs-version", short: "v", default: "6", choices: ["5", "6"], help: "RAFS version; 5 is not supported" },
    {
      long: "features",
      choices: ["blob-toc"],
      help: "Taken for compatibility: blobs have their table of contents always",
    },
    { long: "chunk-dict", help: "Bootstrap whose chunks need not be written: bootstrap=FILE" },
    { long: "parent-bootstrap", help: "Bootstrap that the source lies on; with --bootstrap or --blob-dir" },
    { long: "aligned-chunk", isFlag: true, help: "Taken for compatibility: chunks are aligned always" },
    { long: "repeatable", isFlag: true, help: "Leave owners out" },
    { long: "disable-check", isHidden: true, isFlag: true, help: "" },
    { long: "attributes", isHidden: true, help: "" },
    { long: "external-blob", isHidden: true, help: "" },
    {
      long: "whiteout-spec",
      default: "oci",
      choices: ["oci", "overlayfs", "none"],
      help: "Taken for compatibility: whiteouts of either form are kept for the merge",
    },
    {
      long: "prefetch-policy",
      default: "none",
      choices: ["fs", "blob", "none"],
      help: "With fs, readers are to fetch the paths first that stdin lists",
    },
    { long: "encrypt", short: "E", isFlag: true, help: "Not supported: an error" },
    { long: "output-json", short: "J", help: "File for the result as JSON" },
    ...COMMON_OPTIONS,
  ],
};
