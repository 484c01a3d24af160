import { existsSync } from "node:fs";
import { asNydusError, formatError } from "../../base/errors.ts";
import { DEFAULT_CONTAINERD } from "../../content/containerd/place.ts";
import { INTROSPECTION_SERVICE } from "../../format/containerd/introspection-schema.ts";
import type { ProtoService } from "../../format/containerd/proto.ts";
import { SNAPSHOTS_SERVICE } from "../../format/containerd/snapshots-schema.ts";
import { VERSION_SERVICE } from "../../format/containerd/version-schema.ts";
import { GrpcClient, type Message } from "../../os/grpc.ts";
import { type Check, type ContainerdFacts, type DoctorEnv, type Finding, fail, ok, skip, warn } from "./checks.ts";
import { containerdAddressIn, missingOf, parseConfig, type TomlTable, valueAt } from "./containerd-config.ts";
import { dumpConfig, findContainerd } from "./containerd-program.ts";
import {
  containerdSettings,
  DEFAULT_SNAPSHOTTER_ADDRESS,
  newestConfigVersion,
  SNAPSHOTTER_NAME,
} from "./containerd-settings.ts";
import { readText } from "./place-file.ts";

const ANSWER_TIMEOUT_MS = 3_000;
const INSTALL = "nydus install containerd";
const OLDEST_MINOR = 6;

/** Checks of containerd and of the way from it to the snapshotter, in this order. */
export const CONTAINERD_CHECKS: readonly Check[] = [
  { name: "containerd", run: checkProgram },
  { name: "containerd socket", run: checkSocket },
  { name: "containerd config", run: checkConfig },
  { name: "snapshotter socket", run: checkSnapshotter },
  { name: "snapshotter plugin", run: checkPlugin },
];

/** Looks at containerd once, for all checks. */
export async function lookAtContainerd(places: {
  /** Of its socket; what its configuration says unless given, else the usual one. */
  readonly address?: string | undefined;
  readonly configPath: string;
  readonly searchPath: string | undefined;
}): Promise<ContainerdFacts> {
  const { address, configPath, searchPath } = places;
  const program = await findContainerd(searchPath);
  const facts = { address: address ?? DEFAULT_CONTAINERD.address, configPath, program };
  try {
    const text = await readText(configPath);
    if (text === undefined) return { ...facts, config: undefined, problem: undefined };
    const own = parseConfig(text);
    const config = program === undefined ? own : await dumpConfig(program, configPath);
    return { ...facts, address: address ?? containerdAddressIn(config) ?? facts.address, config, problem: undefined };
  } catch (error) {
    return { ...facts, config: undefined, problem: formatError(asNydusError(error, { path: configPath })) };
  }
}

/** Where containerd has been told that the snapshotter listens. */
function pluginAddress(config: TomlTable | undefined): string | undefined {
  const address = valueAt(config, ["proxy_plugins", SNAPSHOTTER_NAME, "address"]);
  return typeof address === "string" ? address.replace(/^unix:\/\//, "") : undefined;
}

async function checkProgram({ containerd }: DoctorEnv): Promise<Finding> {
  const { program, config } = containerd;
  if (program === undefined) {
    const advice = "install containerd 1.6 or later, if this machine is to run containers";
    const isWanted = pluginAddress(config) !== undefined;
    return (isWanted ? fail : warn)("it is not on PATH, or does not say its version", advice);
  }
  const { major, minor } = program.version;
  const found = `${program.path}, ${major}.${minor}`;
  return major === 1 && minor < OLDEST_MINOR ? fail(`${found} is old`, "update it to 1.6 or later") : ok(found);
}

async function ask(
  socket: string,
  service: ProtoService,
  call: readonly [string, Message],
  signal: AbortSignal,
): Promise<Message> {
  using client = new GrpcClient(socket);
  return await client.call(service, call[0], call[1], { signal, timeoutMs: ANSWER_TIMEOUT_MS });
}

async function checkSocket({ containerd, uid, signal }: DoctorEnv): Promise<Finding> {
  const { address, program, config } = containerd;
  if (!existsSync(address)) {
    if (program === undefined) return skip(`${address} is not there`);
    const advice = "systemctl start containerd, or name the socket by --containerd-address";
    return (pluginAddress(config) === undefined ? warn : fail)(`${address} is not there`, advice);
  }
  try {
    const { version } = await ask(address, VERSION_SERVICE, ["Version", {}], signal);
    return ok(`${address} answers: ${version}`);
  } catch (error) {
    signal.throwIfAborted();
    if (uid !== 0) return skip(`${address} does not answer; perhaps to root only`);
    return fail(`${address} does not answer: ${asNydusError(error).message}`, "systemctl restart containerd");
  }
}

async function checkConfig({ containerd, uid }: DoctorEnv): Promise<Finding> {
  const { config, configPath, problem, program } = containerd;
  if (problem !== undefined) {
    return uid === 0 ? fail(problem, `mend ${configPath}`) : skip(`it cannot be read: ${problem}`);
  }
  const address = pluginAddress(config);
  if (address === undefined || config === undefined) {
    if (program === undefined) return skip("there is no containerd");
    return warn(`${configPath} does not have the snapshotter ${SNAPSHOTTER_NAME}`, INSTALL);
  }
  if (program === undefined) return ok(`${configPath} has the snapshotter, at ${address}`);
  const { version } = program;
  const wanted = { containerd: version, configVersion: newestConfigVersion(version), address, cri: false };
  const settings = containerdSettings({ ...wanted, platform: platformIn(config) });
  const [missing] = settings.flatMap((setting) => missingOf(config, setting));
  return missing === undefined ? ok(`${configPath} has the snapshotter, at ${address}`) : fail(missing, INSTALL);
}

/** The platform that pulls unpack for; that of this machine is what containerd was told at its installation. */
function platformIn(config: TomlTable): string {
  const unpackers = valueAt(config, ["plugins", "io.containerd.transfer.v1.local", "unpack_config"]);
  const ours = Array.isArray(unpackers)
    ? unpackers.find((one) => valueAt(one, ["snapshotter"]) === SNAPSHOTTER_NAME)
    : undefined;
  return String(valueAt(ours, ["platform"]) ?? "this platform");
}

async function checkSnapshotter({ containerd, uid, signal }: DoctorEnv): Promise<Finding> {
  const configured = pluginAddress(containerd.config);
  const address = configured ?? DEFAULT_SNAPSHOTTER_ADDRESS;
  const advice = "systemctl restart nydus-snapshotter; its log: journalctl -u nydus-snapshotter";
  if (!existsSync(address)) {
    if (configured === undefined) return skip(`no snapshotter runs, and containerd asks for none`);
    return uid === 0 ? fail(`${address} is not there`, advice) : skip(`${address} is not there, or cannot be seen`);
  }
  try {
    return ok(`${address} answers: ${await countSnapshots(address, signal)} snapshots`);
  } catch (error) {
    signal.throwIfAborted();
    if (uid !== 0) return skip(`${address} does not answer; perhaps to root only`);
    return fail(`${address} does not answer: ${asNydusError(error).message}`, advice);
  }
}

async function countSnapshots(address: string, signal: AbortSignal): Promise<number> {
  using client = new GrpcClient(address);
  let count = 0;
  const request = { snapshotter: SNAPSHOTTER_NAME, filters: [] };
  const answers = client.stream(SNAPSHOTS_SERVICE, "List", request, { signal, timeoutMs: ANSWER_TIMEOUT_MS });
  for await (const { info } of answers) count += Array.isArray(info) ? info.length : 0;
  return count;
}

/** Whether the containerd that runs has read the configuration, and was content. */
async function checkPlugin({ containerd, signal }: DoctorEnv): Promise<Finding> {
  const { address, config } = containerd;
  if (pluginAddress(config) === undefined) return skip("containerd is not set up for it");
  if (!existsSync(address)) return skip("containerd does not run");
  const filters = [`type==io.containerd.snapshotter.v1,id==${SNAPSHOTTER_NAME}`];
  let answer: Message;
  try {
    answer = await ask(address, INTROSPECTION_SERVICE, ["Plugins", { filters }], signal);
  } catch (error) {
    signal.throwIfAborted();
    return skip(`containerd does not say: ${asNydusError(error).message}`);
  }
  const [plugin] = Array.isArray(answer["plugins"]) ? (answer["plugins"] as Message[]) : [];
  if (plugin === undefined) {
    return fail("containerd runs with an older configuration", "systemctl restart containerd");
  }
  const failure: unknown = plugin["initErr"]?.message;
  if (typeof failure !== "string" || failure === "") return ok(`containerd has loaded ${SNAPSHOTTER_NAME}`);
  return fail(`containerd cannot use it: ${failure}`, "systemctl restart nydus-snapshotter containerd");
}
