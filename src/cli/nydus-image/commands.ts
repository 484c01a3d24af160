import { NydusError } from "../../base/errors.ts";
import type { ImageCommand } from "./command.ts";
import { COMMON_OPTIONS } from "./option.ts";

interface CommandEntry {
  readonly about: string;
  load(): Promise<ImageCommand>;
}

/** A command of the real program that is known here, but not done. */
function notDone(name: string, about: string): CommandEntry {
  const options = [...COMMON_OPTIONS];
  const shape = { name: `nydus-image ${name}`, about: `${about} (not supported)`, options };
  const run = async (): Promise<void> => {
    throw new NydusError("ENOTSUP", `Cannot run ${name}: this program does not support it`);
  };
  return { about: shape.about, load: async () => ({ shape, run }) };
}

/** Every command by its name; loading one loads no other. */
export const IMAGE_COMMANDS: Readonly<Record<string, CommandEntry>> = {
  create: {
    about: "Create RAFS filesystems from directories or tar files",
    load: async () => (await import("./create.ts")).createCommand,
  },
  merge: {
    about: "Merge bootstraps of layers into the bootstrap of an image",
    load: async () => (await import("./merge.ts")).mergeCommand,
  },
  check: {
    about: "Check the structures of a bootstrap",
    load: async () => (await import("./check.ts")).checkCommand,
  },
  inspect: {
    about: "Show what a bootstrap holds, interactively or by requests",
    load: async () => (await import("./inspect.ts")).inspectCommand,
  },
  stat: {
    about: "Count files and chunks of RAFS filesystems",
    load: async () => (await import("./stat.ts")).statCommand,
  },
  unpack: {
    about: "Unpack a RAFS filesystem to a tar file",
    load: async () => (await import("./unpack.ts")).unpackCommand,
  },
  chunkdict: notDone("chunkdict", "Make chunk dictionaries"),
  compact: notDone("compact", "Rewrite blobs without unused chunks"),
  export: notDone("export", "Export RAFS filesystems as disk images"),
  optimize: notDone("optimize", "Make a blob of files to prefetch"),
};
