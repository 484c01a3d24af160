import { createHash } from "node:crypto";

/** What the unit is called. */
export const UNIT_NAME = "nydus-snapshotter.service";
/** Where units of the administrator are. */
export const DEFAULT_UNIT_DIR = "/etc/systemd/system";

const HEAD = "# Written by 'nydus install containerd'; change it by 'systemctl edit nydus-snapshotter'.";
const SUM = "# Sum of what follows: ";
const SUM_DIGITS = 12;

/**
 * The unit that runs the snapshotter. The mount daemon, which it starts, outlives it: systemd ends the snapshotter's
 * process alone, never its control group.
 * @param command absolute path and arguments
 * @see systemd.service(5), systemd.kill(5)
 */
export function formatUnit(command: readonly string[]): string {
  const body = `[Unit]
Description=Nydus snapshotter for containerd
After=local-fs.target network.target
Before=containerd.service

[Service]
Type=notify
ExecStart=${command.map(quoteArgument).join(" ")}
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
OOMScoreAdjust=-999
LimitNOFILE=1048576
TasksMax=infinity
UnsetEnvironment=BUN_OPTIONS BUN_BE_BUN BUN_INSPECT NODE_OPTIONS

[Install]
WantedBy=multi-user.target
`;
  return `${HEAD}\n${SUM}${sumOf(body)}\n\n${body}`;
}

/** Quotes for ExecStart: `%` and `$` are systemd's. */
function quoteArgument(argument: string): string {
  const escaped = argument.replaceAll("%", "%%").replaceAll("$", "$$$$");
  if (/^[A-Za-z0-9_@%+=:,./$-]+$/.test(escaped)) return escaped;
  return `"${escaped.replace(/["\\]/g, "\\$&").replaceAll("\n", "\\n")}"`;
}

function sumOf(body: string): string {
  return createHash("sha256").update(body).digest("hex").slice(0, SUM_DIGITS);
}

/** Whose a unit file is: "ours" as we wrote it, "changed" since, or somebody else's. */
export function ownerOfUnit(text: string): "ours" | "changed" | "other" {
  const [head, sum = "", , ...body] = text.split("\n");
  if (head !== HEAD) return "other";
  return sum === `${SUM}${sumOf(body.join("\n"))}` ? "ours" : "changed";
}
