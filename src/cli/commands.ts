import type { CommandWithUsage } from "./command.ts";

/** A command before it is loaded. */
export interface CommandEntry {
  readonly summary: string;
  load(): Promise<CommandWithUsage>;
}

/** Every command by group, in the order of the help; loading one loads no other. */
export const COMMAND_GROUPS = [
  [
    "Image commands",
    {
      pull: {
        summary: "Bring an image into the store, whole or ready to be read lazily",
        load: async () => (await import("./commands/pull.ts")).pullCommand,
      },
      images: {
        summary: "List the images of the store",
        load: async () => (await import("./commands/images.ts")).imagesCommand,
      },
      rmi: {
        summary: "Remove images from the store",
        load: async () => (await import("./commands/rmi.ts")).rmiCommand,
      },
      prune: {
        summary: "Remove what no image of the store needs",
        load: async () => (await import("./commands/prune.ts")).pruneCommand,
      },
      copy: {
        summary: "Copy an image between registries, files and containerd",
        load: async () => (await import("./commands/copy.ts")).copyCommand,
      },
      load: {
        summary: "Load the images of an archive into containerd",
        load: async () => (await import("./commands/load.ts")).loadCommand,
      },
      prepare: {
        summary: "Make images in containerd ready to run, without pulling them",
        load: async () => (await import("./commands/prepare.ts")).prepareCommand,
      },
      convert: {
        summary: "Convert an image to Nydus (RAFS v6)",
        load: async () => (await import("./commands/convert.ts")).convertCommand,
      },
      inspect: {
        summary: "Show layers, blobs, chunks and what they share",
        load: async () => (await import("./commands/inspect.ts")).inspectCommand,
      },
      ls: { summary: "List files of an image", load: async () => (await import("./commands/ls.ts")).lsCommand },
      cat: {
        summary: "Print a file of an image",
        load: async () => (await import("./commands/cat.ts")).catCommand,
      },
      unpack: {
        summary: "Write an image's files to a directory, or as a tar to stdout",
        load: async () => (await import("./commands/unpack.ts")).unpackCommand,
      },
      check: {
        summary: "Check every structure and every chunk of an image",
        load: async () => (await import("./commands/check.ts")).checkCommand,
      },
    },
  ],
  [
    "Registry commands",
    {
      login: {
        summary: "Check and keep a user and a password for a registry",
        load: async () => (await import("./commands/login.ts")).loginCommand,
      },
      logout: {
        summary: "Forget what 'nydus login' has kept for a registry",
        load: async () => (await import("./commands/logout.ts")).logoutCommand,
      },
    },
  ],
  [
    "Mount commands",
    {
      mount: {
        summary: "Mount an image; data is fetched when it is read",
        load: async () => (await import("./commands/mount.ts")).mountCommand,
      },
      umount: {
        summary: "Unmount what mount has mounted",
        load: async () => (await import("./commands/umount.ts")).umountCommand,
      },
      mounts: {
        summary: "List the mounts and the processes that serve them",
        load: async () => (await import("./commands/mounts.ts")).mountsCommand,
      },
      cache: {
        summary: "List, check and limit the cached data of mounts",
        load: async () => (await import("./commands/cache.ts")).cacheCommand,
      },
      daemon: {
        summary: "Look at the process that serves the mounts, or end it",
        load: async () => (await import("./commands/daemon.ts")).daemonCommand,
      },
      snapshotter: {
        summary: "Serve containerd's snapshots",
        load: async () => (await import("./commands/snapshotter.ts")).snapshotterCommand,
      },
    },
  ],
  [
    "Host commands",
    {
      install: {
        summary: "Set up containerd to use this program as its snapshotter",
        load: async () => (await import("./commands/install.ts")).installCommand,
      },
      uninstall: {
        summary: "Take back what 'nydus install' has set up",
        load: async () => (await import("./commands/uninstall.ts")).uninstallCommand,
      },
      doctor: {
        summary: "Look for what would keep this machine from running images",
        load: async () => (await import("./commands/doctor.ts")).doctorCommand,
      },
    },
  ],
] as const satisfies readonly (readonly [string, Readonly<Record<string, CommandEntry>>])[];

/** A command by its name. */
export function findCommand(name: string): CommandEntry | undefined {
  for (const [, commands] of COMMAND_GROUPS) {
    if (Object.hasOwn(commands, name)) return (commands as Readonly<Record<string, CommandEntry>>)[name];
  }
  return undefined;
}
