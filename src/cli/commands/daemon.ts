import { setTimeout as sleep } from "node:timers/promises";
import { NydusError } from "../../base/errors.ts";
import { processStart } from "../../os/process.ts";
import type { DaemonStatus } from "../../service/daemon/api.ts";
import { followLog, readLog } from "../../service/daemon/read-log.ts";
import { runDaemon } from "../../service/daemon/run-daemon.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { daemonClient, idleTimeout, runCommand, threadCount } from "../daemon-access.ts";
import { printBytes, printJson, printText } from "../output.ts";
import { formatBytes } from "../progress.ts";
import { versionLine } from "../version.ts";

/** How long a daemon may take to end, and how often to look. */
const END_TIMEOUT_MS = 30_000;
const END_POLL_MS = 20;

interface DaemonArguments {
  readonly follow?: boolean | undefined;
  readonly threads: string;
  readonly "idle-timeout"?: string | undefined;
}

const ACTIONS = { status, stop, upgrade, logs, run } satisfies Record<
  string,
  (context: CliContext, args: DaemonArguments) => Promise<void>
>;

async function status(context: CliContext): Promise<void> {
  const found = await daemonClient(context).status();
  if (context.json) await printJson(found);
  else await printText(formatStatus(found));
}

function formatStatus(found: DaemonStatus): string {
  const rows: readonly (readonly string[])[] = [
    ["state", found.state],
    ["pid", `${found.pid}`],
    ["version", found.version],
    ["root", found.root],
    ["started", found.startedAt],
    ["mounts", `${found.mounts} of ${found.images} images`],
    ["threads", `${found.threads}`],
    ...(found.engine === undefined ? [] : [["engine", found.engine]]),
    ["memory", `${formatBytes(found.rssBytes)}, ${formatBytes(found.rssAnonBytes)} of it anonymous`],
    ["open files", `${found.openFiles}`],
    ["idle timeout", `${found.idleMs / 1000} s`],
  ];
  return rows.map(([name = "", value = ""]) => `${`${name}:`.padEnd(14)}${value}\n`).join("");
}

async function stop(context: CliContext): Promise<void> {
  const client = daemonClient(context);
  const pid = await client.stop();
  const start = processStart(pid);
  for (let waited = 0; start !== undefined && processStart(pid) === start; waited += END_POLL_MS) {
    context.signal.throwIfAborted();
    if (waited >= END_TIMEOUT_MS) throw new NydusError("EBUSY", `Cannot stop daemon: process ${pid} does not end`);
    await sleep(END_POLL_MS);
  }
  if (context.json) await printJson({ pid });
}

/** Has a daemon of this very program take the place of the one that serves. */
async function upgrade(context: CliContext): Promise<void> {
  const client = daemonClient(context);
  const before = await client.status();
  const { pid, from } = await client.upgrade(runCommand(context, before.threads, before.idleMs));
  const after = await client.status();
  if (context.json) await printJson({ pid, from, version: after.version, versionBefore: before.version });
  else
    await printText(
      `process ${pid} (${after.version}) serves ${after.mounts} mounts of process ${from} (${before.version})\n`,
    );
}

async function logs(context: CliContext, { follow }: DaemonArguments): Promise<void> {
  if (follow !== true) for await (const piece of readLog(context.root)) await printBytes(piece);
  else for await (const piece of followLog(context.root, context.signal)) await printBytes(piece);
}

async function run(context: CliContext, args: DaemonArguments): Promise<void> {
  const threads = threadCount(args.threads);
  const idleMs = idleTimeout(args["idle-timeout"]);
  context.releaseSignals();
  const command = runCommand(context, threads, idleMs);
  await runDaemon({ root: context.root, version: versionLine(), threads, idleMs, command });
}

/** `nydus daemon` */
export const daemonCommand = nydusCommand({
  description: `Look at the process that serves the mounts, or end it

One daemon serves all mounts of a state directory. 'nydus mount' starts it, and it ends by itself when nothing has been
mounted for a while: 10 s, or what NYDUS_DAEMON_IDLE said when it was started. Should it die, another one goes on with
its mounts. 'stop' unmounts everything; who reads then has 5 s, and less if told so twice. 'upgrade' has a daemon of
this program take the place of the one that serves, without an error for anyone who reads. 'run' is the daemon, in this process: for service managers. Its API, JSON over
HTTP and Prometheus' /metrics, is on the socket daemon.sock in the state directory.`,
  usage: ["status", "stop", "upgrade", "logs [--follow]", "run [--threads N] [--idle-timeout TIME]"],
  args: {
    action: { type: "positional", required: true, description: "One of status, stop, upgrade, logs, run" },
    follow: { type: "boolean", alias: "f", description: "Go on with what is logged until interrupted" },
    threads: { type: "string", valueHint: "N", default: "2", description: "Threads that answer the kernel" },
    "idle-timeout": { type: "string", valueHint: "TIME", description: "End after so long without a mount" },
  },
  async run(args, context) {
    const action = parseAction(args.action);
    await ACTIONS[action](context, args);
    return 0;
  },
});

function parseAction(text: string): keyof typeof ACTIONS {
  if (Object.hasOwn(ACTIONS, text)) return text as keyof typeof ACTIONS;
  throw new NydusError(
    "EINVAL",
    `Unknown action ${JSON.stringify(text)}: it is one of ${Object.keys(ACTIONS).join(", ")}`,
  );
}
