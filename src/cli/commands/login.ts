import { NydusError } from "../../base/errors.ts";
import { parseRegistry, storeLogin, verifyLogin } from "../../content/registry/login.ts";
import { nydusCommand } from "../command.ts";
import { printJson, printStderr } from "../output.ts";
import { askLine, readStdin } from "../prompt.ts";
import { REGISTRY_ARGS, registryOptions } from "../registry-args.ts";

/** `nydus login` */
export const loginCommand = nydusCommand({
  description: `Check and keep a user and a password for a registry

They are kept as docker keeps them, for both programs: by the credential helper that the configuration names, else in
the file itself, which only its owner can read. The file is $REGISTRY_AUTH_FILE, else $DOCKER_CONFIG/config.json, else
~/.docker/config.json. Without --password-stdin the password is asked for on the terminal.

e.g., 'nydus login -u me --password-stdin registry.example < password'`,
  args: {
    registry: { type: "positional", required: false, description: "HOST[:PORT] (default docker.io)" },
    username: { type: "string", alias: "u", valueHint: "USER", description: "User" },
    "password-stdin": { type: "boolean", description: "Read the password from stdin" },
    ...REGISTRY_ARGS,
  },
  async run(args, context) {
    const registry = parseRegistry(args.registry ?? "docker.io");
    const fromStdin = args["password-stdin"] === true;
    if (fromStdin && args.username === undefined) {
      throw new NydusError("EINVAL", "Flag --password-stdin needs --username");
    }
    const username = args.username ?? (await askLine("Username", false));
    const password = fromStdin ? await readStdin(context.signal) : await askLine("Password", true);
    if (username === "" || password === "") throw new NydusError("EINVAL", "Cannot log in: user or password is empty");
    if (username.includes(":")) throw new NydusError("EINVAL", "Cannot log in: a user's name has no colon");
    const credential = { kind: "password", username, password } as const;
    await verifyLogin(registry, credential, registryOptions(args), context.signal);
    const { path, helper } = await storeLogin(registry, credential, process.env);
    if (context.json) await printJson({ registry, username, path, ...(helper !== undefined && { helper }) });
    else if (!context.quiet) printStderr(`logged in to ${registry}: ${helper ?? path} keeps it\n`);
    return 0;
  },
});
