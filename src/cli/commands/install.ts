import { formatPlatform, hostPlatform } from "../../format/oci/platform.ts";
import { DEFAULT_SNAPSHOTTER_ADDRESS, parseContainerdVersion } from "../../operation/host/containerd-settings.ts";
import { planInstall } from "../../operation/host/install.ts";
import { selfCommand } from "../../os/process.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { HOST_ARGS, hostPlaces } from "../host-args.ts";
import { carryOut } from "../host-changes.ts";
import { badValue } from "../values.ts";

/** Longest path of a socket, bytes. */
const ADDRESS_BYTES = 107;
/** Directory of all state that root's processes have unless told otherwise. */
const SERVICE_ROOT = "/var/lib/nydus";

/** `nydus install` */
export const installCommand = nydusCommand({
  description: `Set up containerd to use this program as its snapshotter

Adds the snapshotter to containerd's configuration, 1.6 and later, and writes a systemd unit that runs it. The
configuration keeps its comments and its order; what is added stands between marks, and 'nydus uninstall containerd'
takes it out again. The old file is kept beside it. A file that cannot be parsed, or says something else, is left as it
is, and so it is when containerd itself does not take the new one. Runs nothing: what is to be restarted is printed.

e.g., 'nydus install containerd --dry-run'`,
  args: {
    ...HOST_ARGS,
    address: {
      type: "string",
      valueHint: "SOCK",
      default: DEFAULT_SNAPSHOTTER_ADDRESS,
      description: "Where the snapshotter listens",
    },
    cri: { type: "boolean", description: "Kubernetes too: its images are unpacked by this snapshotter" },
    "containerd-version": { type: "string", valueHint: "X.Y", description: "Instead of asking the one on PATH" },
  },
  async run(args, context) {
    const { configPath, unitDir } = hostPlaces(args);
    const address = checkedAddress(args.address);
    const command = snapshotterCommand(context, address);
    const plan = await planInstall({
      ...{ configPath, unitDir, address, command },
      cri: args.cri === true,
      root: context.root,
      platform: formatPlatform(hostPlatform(process.arch)),
      searchPath: process.env["PATH"],
      containerd: givenVersion(args["containerd-version"]),
    });
    const byHand = `${plan.command.join(" ")} &  # then restart containerd`;
    const services = "nydus-snapshotter && systemctl restart nydus-snapshotter containerd";
    const next = unitDir === undefined ? byHand : `systemctl daemon-reload && systemctl enable ${services}`;
    await carryOut(plan, { ...context, dryRun: args["dry-run"] === true, next });
    return 0;
  },
});

function checkedAddress(address: string): string {
  if (/^\/[^\p{Cc}]*$/u.test(address) && Buffer.byteLength(address) <= ADDRESS_BYTES) return address;
  throw badValue("address", address, `an absolute path of at most ${ADDRESS_BYTES} bytes`);
}

function givenVersion(text: string | undefined): ReturnType<typeof parseContainerdVersion> {
  if (text === undefined) return undefined;
  const version = parseContainerdVersion(text);
  if (version === undefined) throw badValue("containerd-version", text, "a version such as 2.2");
  return version;
}

function snapshotterCommand({ root }: CliContext, address: string): readonly string[] {
  const rootFlags = root === SERVICE_ROOT ? [] : ["--root", root];
  return [...selfCommand(), ...rootFlags, "snapshotter", "--address", address];
}
