import { resolve } from "node:path";
import type { ArgsDef } from "citty";
import type { RegistryOptions } from "../content/registry/registry-options.ts";

/** Flags of commands that may speak to a registry. */
export const REGISTRY_ARGS = {
  "ca-file": { type: "string", valueHint: "FILE", description: "CA certificates (PEM) to trust besides the system's" },
  "plain-http": { type: "boolean", description: "Speak plain HTTP (this machine's registries need no flag)" },
} as const satisfies ArgsDef;

/** What {@link REGISTRY_ARGS} give. */
export interface RegistryArguments {
  readonly "ca-file"?: string | undefined;
  readonly "plain-http"?: boolean | undefined;
}

/** How the arguments want registries to be reached; paths are made absolute. */
export function registryOptions(args: RegistryArguments): RegistryOptions {
  const caFile = args["ca-file"];
  return {
    ...(caFile !== undefined && { caFile: resolve(caFile) }),
    ...(args["plain-http"] === true && { plainHttp: true }),
  };
}
