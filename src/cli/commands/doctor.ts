import { readFileSync } from "node:fs";
import { release } from "node:os";
import { resolve } from "node:path";
import { ERROR_CODES } from "../../base/errors.ts";
import {
  type Check,
  type CheckResult,
  type DoctorEnv,
  fail,
  ok,
  runChecks,
  warn,
} from "../../operation/host/checks.ts";
import { lookAtContainerd } from "../../operation/host/containerd-checks.ts";
import { DEFAULT_CONFIG_PATH } from "../../operation/host/containerd-settings.ts";
import { allChecks } from "../../operation/host/doctor.ts";
import { DaemonAbsent } from "../../service/daemon/client.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { daemonClient } from "../daemon-access.ts";
import { printJson, printText } from "../output.ts";
import { versionLine } from "../version.ts";

/** Exit status when a check has failed: that of what is not supported here. */
const FAILED_STATUS = ERROR_CODES.ENOTSUP.exit;
/** Columns of the status and of the name. */
const WIDTHS = { status: 6, name: 20 } as const;

/** `nydus doctor` */
export const doctorCommand = nydusCommand({
  description: `Look for what would keep this machine from running images

Looks at the kernel, the state directory, the mount daemon and containerd, mounts and reads a small image, and says what
to change, a line a check. Nothing is left behind. Without root some checks are skipped. Ends with status ${FAILED_STATUS} when one
has failed.`,
  args: {
    config: {
      type: "string",
      valueHint: "FILE",
      default: DEFAULT_CONFIG_PATH,
      description: "containerd's configuration",
    },
    "containerd-address": {
      type: "string",
      alias: "a",
      valueHint: "SOCK",
      description: "containerd's socket (env CONTAINERD_ADDRESS; default: as its configuration says)",
    },
  },
  async run(args, context) {
    const address = args["containerd-address"] ?? (process.env["CONTAINERD_ADDRESS"] || undefined);
    const results: CheckResult[] = [];
    for await (const result of runChecks(
      allChecks([daemonCheck(context)]),
      await envOf(context, args.config, address),
    )) {
      results.push(result);
      if (!context.json && !(context.quiet && isFine(result))) await printText(formatResult(result));
    }
    if (context.json) await printJson(results);
    return results.some(({ status }) => status === "fail") ? FAILED_STATUS : 0;
  },
});

async function envOf({ root, signal }: CliContext, config: string, address: string | undefined): Promise<DoctorEnv> {
  const searchPath = process.env["PATH"];
  return {
    ...{ root, signal },
    uid: process.getuid?.() ?? 0,
    kernelRelease: release(),
    now: new Date(),
    variables: process.env,
    readText: readTextFile,
    containerd: await lookAtContainerd({
      address: address?.replace(/^unix:\/\//, ""),
      configPath: resolve(config),
      searchPath,
    }),
  };
}

function readTextFile(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** The process that serves the mounts of the state directory. */
function daemonCheck(context: CliContext): Check {
  return {
    name: "mount daemon",
    run: async () => {
      try {
        const { version, pid, mounts } = await daemonClient(context).status();
        if (version === versionLine()) return ok(`process ${pid} serves ${mounts} mounts`);
        const found = `process ${pid} is of another version (${version})`;
        return warn(found, "unmount everything, or 'nydus daemon stop': the next mount starts this version");
      } catch (error) {
        if (error instanceof DaemonAbsent) return ok("none runs; the first mount starts it");
        const advice = `'nydus daemon logs'; end the process that has ${context.root}/daemon.lock open`;
        return fail(`it does not answer: ${(error as Error).message}`, advice);
      }
    },
  };
}

function isFine({ status }: CheckResult): boolean {
  return status === "ok" || status === "skip";
}

function formatResult({ status, name, found, advice }: CheckResult): string {
  const line = [found, ...(advice === undefined ? [] : [advice])].join("; ").replace(/\p{Cc}+/gu, " ");
  return `${status.padEnd(WIDTHS.status)}${name.padEnd(WIDTHS.name)}${line}\n`;
}
