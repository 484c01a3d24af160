import { existsSync } from "node:fs";
import { resolve } from "node:path";
import type { ArgsDef } from "citty";
import { NydusError } from "../base/errors.ts";
import { DEFAULT_CONFIG_PATH } from "../operation/host/containerd-settings.ts";
import { DEFAULT_UNIT_DIR } from "../operation/host/systemd-unit.ts";

/** Arguments that `install` and `uninstall` share. */
export const HOST_ARGS = {
  target: { type: "positional", required: true, description: "What to set up: containerd" },
  "dry-run": { type: "boolean", description: "Show the changes as a diff and make none" },
  config: {
    type: "string",
    valueHint: "FILE",
    default: DEFAULT_CONFIG_PATH,
    description: "containerd's configuration",
  },
  "unit-dir": { type: "string", valueHint: "DIR", description: `systemd's units (default ${DEFAULT_UNIT_DIR})` },
  "skip-unit": { type: "boolean", description: "Leave systemd alone" },
} as const satisfies ArgsDef;

/** There as long as systemd is what this machine was started by (sd_booted(3)). */
const SYSTEMD_SIGN = "/run/systemd/system";

interface HostArguments {
  readonly target: string;
  readonly config: string;
  readonly "unit-dir"?: string | undefined;
  readonly "skip-unit"?: boolean | undefined;
}

/** The places that the arguments name. @throws EINVAL another target than containerd */
export function hostPlaces(args: HostArguments): { readonly configPath: string; readonly unitDir: string | undefined } {
  if (args.target !== "containerd") {
    throw new NydusError("EINVAL", `Unknown target ${JSON.stringify(args.target)}: it is containerd`);
  }
  const systemdDir = existsSync(SYSTEMD_SIGN) ? DEFAULT_UNIT_DIR : undefined;
  const dir = args["unit-dir"] === undefined ? systemdDir : resolve(args["unit-dir"]);
  return { configPath: resolve(args.config), unitDir: args["skip-unit"] === true ? undefined : dir };
}
