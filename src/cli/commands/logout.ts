import { eraseLogin, parseRegistry } from "../../content/registry/login.ts";
import { nydusCommand } from "../command.ts";
import { printJson, printStderr } from "../output.ts";

/** `nydus logout` */
export const logoutCommand = nydusCommand({
  description: `Forget what 'nydus login' has kept for a registry

It is no error when there is nothing.`,
  args: { registry: { type: "positional", required: false, description: "HOST[:PORT] (default docker.io)" } },
  async run(args, context) {
    const registry = parseRegistry(args.registry ?? "docker.io");
    const place = await eraseLogin(registry, process.env);
    if (context.json) await printJson({ registry, wasLoggedIn: place !== undefined });
    else if (!context.quiet) {
      const done = place === undefined ? "not logged in to" : "logged out of";
      printStderr(`${done} ${registry}\n`);
    }
    return 0;
  },
});
