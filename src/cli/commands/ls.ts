import { formatMode, formatTime, type ListEntry, listPath } from "../../operation/image/list.ts";
import { nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS } from "../containerd-args.ts";
import { bothUsages, chooseImage, IMAGE_ARGS, withImage } from "../image-args.ts";
import { printText } from "../output.ts";

/** Entries whose text is written at once. */
const ENTRIES_AT_ONCE = 1000;

function longLine(entry: ListEntry): string {
  const size = entry.rdev === undefined ? String(entry.sizeBytes) : entry.rdev.join(",");
  const columns = [
    formatMode(entry),
    String(entry.nlink).padStart(3),
    String(entry.uid).padStart(5),
    String(entry.gid).padStart(5),
    size.padStart(10),
    formatTime(entry.mtimeSec),
  ];
  const target = entry.target === undefined ? "" : ` -> ${entry.target}`;
  return `${columns.join(" ")} ${entry.path}${target}`;
}

/** `nydus ls` */
export const lsCommand = nydusCommand({
  description: `List files of an image

Prints whole paths, one a line; bytes that are no printable UTF-8 as \\ooo. With --json one JSON object a line.
Reads metadata only.`,
  usage: bothUsages("[PATH]"),
  args: {
    image: { type: "positional", required: false, description: "Nydus image" },
    path: { type: "positional", required: false, description: "Directory or file in it (default /)" },
    ...IMAGE_ARGS,
    ...CONTAINERD_ARGS,
    long: { type: "boolean", alias: "l", description: "Mode, links, owner, group, size and time (UTC) too" },
    recursive: { type: "boolean", alias: "R", description: "All below the directory" },
  },
  async run(args, context) {
    const { image: choice, rest } = chooseImage(args, [args.image, args.path]);
    return withImage(choice, args, context, async ({ image }) => {
      const format = context.json ? JSON.stringify : args.long === true ? longLine : (entry: ListEntry) => entry.path;
      const path = new TextEncoder().encode(rest[0] ?? "/");
      let lines: string[] = [];
      for (const entry of listPath(image.rafs.erofs, path, { recursive: args.recursive === true })) {
        if (lines.push(`${format(entry)}\n`) < ENTRIES_AT_ONCE) continue;
        await printText(lines.join(""));
        context.signal.throwIfAborted();
        lines = [];
      }
      await printText(lines.join(""));
      return 0;
    });
  },
});
