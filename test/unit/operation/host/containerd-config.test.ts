import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import {
  addSettings,
  configVersionOf,
  missingOf,
  parseConfig,
  removeSettings,
  valueAt,
} from "../../../../src/operation/host/containerd-config.ts";
import { containerdSettings, parseContainerdVersion } from "../../../../src/operation/host/containerd-settings.ts";
import { Random } from "../../../kit/random.ts";

const SOCKET = "/run/nydus.sock";
const IMAGES = ["plugins", "io.containerd.cri.v1.images"];
const CRI = ["plugins", "io.containerd.grpc.v1.cri", "containerd"];
const UNPACK = ["plugins", "io.containerd.transfer.v1.local", "unpack_config"];
const DEFAULT_1 = readFileSync(join(import.meta.dir, "default-1.6.toml"), "utf8");
const DEFAULT_2 = readFileSync(join(import.meta.dir, "default-2.2.toml"), "utf8");

/** What is installed for a release into a text of its version. */
function settingsFor(text: string, major: number, cri = false): ReturnType<typeof containerdSettings> {
  const configVersion = configVersionOf(parseConfig(text));
  const containerd = { major, minor: major === 1 ? 6 : 2 };
  return containerdSettings({ containerd, configVersion, address: SOCKET, cri, platform: "linux/amd64" });
}

function add(text: string, major: number, cri = false): string {
  return addSettings(text, settingsFor(text, major, cri));
}

/** Plain objects: what toEqual compares. */
function values(text: string): Record<string, unknown> {
  return JSON.parse(JSON.stringify(parseConfig(text), (_, one) => (typeof one === "bigint" ? `${one}n` : one)));
}

interface Element {
  snapshotter: string;
  platform: string;
}

const OVERLAY = { platform: "linux/amd64", snapshotter: "overlayfs", differ: "walking" };
const OURS = { platform: "linux/amd64", snapshotter: "nydus", differ: "walking" };

describe("defaults of containerd", () => {
  test("1.6 gets the proxy plugin alone, and everything else stays", () => {
    const expected = values(DEFAULT_1);
    expected["proxy_plugins"] = { nydus: { type: "snapshot", address: SOCKET } };
    expect(values(add(DEFAULT_1, 1))).toEqual(expected);
  });

  test("2.2 gets the plugin, its export, and both unpackers", () => {
    const expected = values(DEFAULT_2);
    expected["proxy_plugins"] = {
      nydus: { type: "snapshot", address: SOCKET, exports: { enable_remote_snapshot_annotations: "true" } },
    };
    const plugins = expected["plugins"] as Record<string, Record<string, unknown>>;
    plugins["io.containerd.transfer.v1.local"] = {
      ...plugins["io.containerd.transfer.v1.local"],
      unpack_config: [OVERLAY, OURS],
    };
    expect(values(add(DEFAULT_2, 2))).toEqual(expected);
  });

  test("CRI's values of 1.6 are replaced where they stand, and come back", () => {
    const made = add(DEFAULT_1, 1, true);
    expect(valueAt(parseConfig(made), [...CRI, "snapshotter"])).toBe("nydus");
    expect(valueAt(parseConfig(made), [...CRI, "disable_snapshot_annotations"])).toBe(false);
    expect(made).toContain('in the place of:       snapshotter = "overlayfs"\n      snapshotter = "nydus"\n');
    expect(removeSettings(made)).toBe(DEFAULT_1);
  });

  test("CRI of 2.2 is set in its image plugin", () => {
    const config = parseConfig(add(DEFAULT_2, 2, true));
    expect(valueAt(config, [...IMAGES, "snapshotter"])).toBe("nydus");
    expect(valueAt(config, [...IMAGES, "disable_snapshot_annotations"])).toBe(false);
  });

  test("CRI of 2.2 in a file of version 2 is set where containerd migrates it from", () => {
    const config = parseConfig(add("version = 2\n", 2, true));
    expect(valueAt(config, [...CRI, "snapshotter"])).toBe("nydus");
    expect(valueAt(config, IMAGES)).toBeUndefined();
  });
});

/** Texts that are added to and taken out of; each has what is odd in its name. */
const ODD_TEXTS: readonly (readonly [name: string, text: string])[] = [
  ["an empty file", ""],
  ["a comment alone", "# nothing\n"],
  ["no newline at the end", "version = 2"],
  ["CRLF line ends", "version = 2\r\n\r\n[grpc]\r\n  address = '/x' # here\r\n"],
  ["CRLF without the last", "version = 2\r\n[grpc]\r\n  address = '/x'"],
  ["a byte order mark", "\ufeffversion = 2\n"],
  ["a byte order mark alone", "\ufeff"],
  ["docker's file of version 1", '#   Copyright\n\ndisabled_plugins = ["cri"]\n\n#[grpc]\n#  gid = 0\n'],
  ["dotted keys elsewhere", 'version = 2\ngrpc.address = "/x"\ndebug.level = "info"\n'],
  ["an inline table elsewhere", 'version = 2\ngrpc = { address = "/x", uid = 0 }\n'],
  [
    "another plugin",
    'version = 2\n[proxy_plugins]\n  [proxy_plugins.stargz]\n    type = "snapshot"\n    address = "/s"\n',
  ],
  ["another plugin by quoted keys", "version = 2\n['proxy_plugins' . \"stargz\"]\ntype = 'snapshot'\naddress = '/s'\n"],
  [
    "our plugin without its export",
    `version = 2\n[proxy_plugins.nydus]\n  type = "snapshot"\n  address = "${SOCKET}"\n`,
  ],
  ["our plugin without its type", `version = 2\n[proxy_plugins.nydus] # mine\n  address = "${SOCKET}"\n\n[grpc]\n`],
  ["our plugin's empty header at the end", "version = 2\n[proxy_plugins.nydus]"],
  [
    "unpackers of its own",
    `version = 2\n[[plugins."io.containerd.transfer.v1.local".unpack_config]]\n  snapshotter = "zfs"\n`,
  ],
  [
    "unpackers turned off",
    `version = 2\n[plugins.'io.containerd.transfer.v1.local']\n  unpack_config = [ ] # none\n  x = 1\n`,
  ],
  ["marks in a string", 'version = 2\nx = """\n# >>> nydus install\n# <<< nydus install 0\n"""\n'],
  ["headers in strings and comments", "version = 2\nx = '''\n[proxy_plugins.nydus]\n'''\n#[proxy_plugins.nydus]\n"],
  ["arrays over many lines", 'version = 2\nimports = [ # list\n  "a", "]", # ] no\n  "b",\n]\n[x]\ny = [[1,2],[3]]\n'],
  [
    "dates, floats and large numbers",
    "version = 2\na = 1979-05-27T07:32:00Z\nb = nan\nc = 9223372036854775807\nd = 07:32:00\n",
  ],
  ["odd keys", '__proto__ = 1\n[constructor]\ntoString = "x"\n"a.b" = 2\n"\\u00e9\\"" = 3\n'],
  [
    "tables below CRI's, not CRI's own",
    'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n  x = 1\n',
  ],
  [
    "CRI on the first line, behind a byte order mark",
    '\ufeffplugins."io.containerd.grpc.v1.cri".containerd.snapshotter = "zfs"\nplugins."io.containerd.grpc.v1.cri".containerd.disable_snapshot_annotations = false\nversion = 2\n',
  ],
  [
    "CRI by dotted keys",
    'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  containerd.snapshotter = "zfs" # old\n  containerd.disable_snapshot_annotations = true\n',
  ],
];

describe.each([
  ["1.6", 1, false],
  ["1.6 with CRI", 1, true],
  ["2.2", 2, false],
  ["2.2 with CRI", 2, true],
] as const)("for containerd %s", (_, major, cri) => {
  const texts = ODD_TEXTS.filter(([, text]) => !cri || configVersionOf(parseConfig(text)) > 1);

  test.each(texts)("%s: it is added, once, and taken out byte for byte", (_name, text) => {
    const settings = settingsFor(text, major, cri);
    const made = addSettings(text, settings);
    expect(settings.flatMap((setting) => missingOf(parseConfig(made), setting))).toEqual([]);
    expect(addSettings(made, settings)).toBe(made);
    expect(removeSettings(made)).toBe(text);
    expect(made.startsWith("\ufeff")).toBe(text.startsWith("\ufeff"));
    expect(made.replaceAll("\r\n", "").includes("\n") && text.includes("\r\n")).toBe(false);
  });
});

const CONFLICTS: readonly (readonly [name: string, line: number | undefined, text: string])[] = [
  ["another address", 3, 'version = 2\n[proxy_plugins.nydus]\n  address = "/other"\n'],
  ["another address by dotted keys", 1, 'proxy_plugins.nydus.address = "/other"\n'],
  ["another type", 2, '[proxy_plugins.nydus]\n  type = "diff"\n'],
  ["a plugin table that is inline", 2, "# x\nproxy_plugins = { stargz = { type = 'snapshot', address = '/x' } }\n"],
  ["a plugin that is inline", 2, `[proxy_plugins]\nnydus = { type = "snapshot" }\n`],
  ["a plugin that is no table", 1, "proxy_plugins = 3\n"],
  ["a list of plugins", 1, "[[proxy_plugins]]\nx = 1\n"],
  ["our plugin by dotted keys, incomplete", 2, `[proxy_plugins]\nnydus.type = "snapshot"\n`],
  [
    "unpackers in a list of inline tables",
    3,
    `version = 2\n[plugins."io.containerd.transfer.v1.local"]\nunpack_config = [{ snapshotter = "zfs" }]\n`,
  ],
  [
    "an empty list over two lines",
    3,
    `version = 2\n[plugins."io.containerd.transfer.v1.local"]\nunpack_config = [\n]\n`,
  ],
];

describe("what is in the way", () => {
  test.each(CONFLICTS)("%s is refused, naming line %p", (_name, line, text) => {
    expect(() => add(text, 2)).toThrow(
      expect.objectContaining({ code: "EEXIST", message: expect.stringContaining(`line ${line}:`) }),
    );
  });

  test("CRI in an inline table is refused, naming the line", () => {
    const text = `version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = { containerd = { snapshotter = "zfs" } }\n`;
    expect(() => add(text, 1, true)).toThrow("line 3:");
    expect(add(text, 1)).toStartWith(text);
  });

  test.each([
    ["a duplicate key", "version = 2\n[x]\na = 1\na = 2\n", 4],
    ["a table defined twice", "[a]\n[b]\n[a]\n", 3],
    ["a string that does not end", 'a = 1\nsecret = "hunter2\n', 2],
    ["no TOML at all", "{]\n", 1],
  ] as const)("%s is refused with its line, and without what stands there", (_name, text, line) => {
    const failure = expect.objectContaining({
      code: "EUCLEAN",
      message: expect.stringContaining(`line ${line}, column `),
    });
    expect(() => add(text, 1)).toThrow(failure);
    expect(() => removeSettings(text)).toThrow(failure);
    expect(() => add(text, 1)).not.toThrow("hunter2");
  });

  test("versions that the release does not read are refused", () => {
    expect(() => add("version = 3\n", 1)).toThrow(expect.objectContaining({ code: "ENOTSUP" }));
    expect(() => add("version = 4\n", 2)).toThrow(expect.objectContaining({ code: "ENOTSUP" }));
    expect(() => add('version = "2"\n', 2)).toThrow(expect.objectContaining({ code: "EUCLEAN" }));
    expect(() => add("", 1, true)).toThrow("containerd config migrate");
  });
});

describe("what a person has written already", () => {
  test("is left as it is when nothing is missing", () => {
    const text = `proxy_plugins = { nydus = { type = "snapshot", address = "${SOCKET}" } }\n`;
    expect(add(text, 1)).toBe(text);
  });

  test("an unpacker for the snapshotter is not added twice", () => {
    const text = `[[plugins."io.containerd.transfer.v1.local".unpack_config]]\nplatform = "linux/amd64"\nsnapshotter = "nydus"\n`;
    const unpackers = valueAt(parseConfig(add(text, 2)), UNPACK) as Element[];
    expect(unpackers.map(({ snapshotter }) => snapshotter)).toEqual(["nydus"]);
  });
});

describe("edits since", () => {
  const made = add("version = 2\n[grpc]\n  uid = 0\n", 2);

  test("around the blocks stay", () => {
    const edited = `# top\n${made.replace("uid = 0", "uid = 5")}\n[debug]\n  level = "info"\n`;
    expect(removeSettings(edited)).toBe('# top\nversion = 2\n[grpc]\n  uid = 5\n\n[debug]\n  level = "info"\n');
  });

  test("behind a last line that had no end keep it in a line of its own", () => {
    expect(removeSettings(`${add("version = 2", 1)}[debug]\n`)).toBe("version = 2\n[debug]\n");
  });

  test("line ends that an editor has converted do no harm", () => {
    const crlf = made.replaceAll("\n", "\r\n");
    expect(removeSettings(crlf)).toBe("version = 2\r\n[grpc]\r\n  uid = 0\r\n");
  });

  test("within a block are not taken out, but named", () => {
    const edited = made.replace(`address = "${SOCKET}"`, 'address = "/mine"');
    expect(() => removeSettings(edited)).toThrow(
      expect.objectContaining({ code: "EEXIST", message: expect.stringContaining("from 4 on") }),
    );
  });

  test("that would move into another table are not made to", () => {
    const edited = `${add("version = 2\n", 1)}capabilities = ["x"]\n`;
    expect(() => removeSettings(edited)).toThrow("line 7 was written into the table of the block from line 2 on");
  });

  test("a block without an end is refused", () => {
    const edited = made.replace(/# <<< nydus install.*\n/g, "");
    expect(() => removeSettings(edited)).toThrow(NydusError);
  });

  test("another address takes the place of the one that was installed", () => {
    const settings = settingsFor("version = 2\n", 2);
    const moved = settings.map((one) =>
      one.kind === "table" && one.path.length === 2 ? { ...one, values: { ...one.values, address: "/new" } } : one,
    );
    const again = addSettings(made, moved);
    expect(valueAt(parseConfig(again), ["proxy_plugins", "nydus", "address"])).toBe("/new");
    expect(removeSettings(again)).toBe(removeSettings(made));
  });
});

function shuffled<T>(list: readonly T[], random: Random): T[] {
  return list
    .map((one) => [random.word(), one] as const)
    .sort(([a], [b]) => a - b)
    .map(([, one]) => one);
}

const TABLES = [
  "[grpc]",
  "[debug] # c",
  "[proxy_plugins]",
  "[proxy_plugins.stargz]",
  "  [proxy_plugins.nydus]",
  "[proxy_plugins.nydus.exports]",
  "[plugins]",
  '[plugins."io.containerd.transfer.v1.local"]',
  '[plugins."io.containerd.grpc.v1.cri"]',
  '[plugins."io.containerd.grpc.v1.cri".containerd]',
  "[plugins.'io.containerd.cri.v1.images']",
  "[timeouts]",
  '["a b".c]',
] as const;
const ANY_VALUES = ["1", '"x # y"', "[1,\n 2]", "{ a = 1 }", "'''\n[z]\n'''", "1979-05-27", "true   "];

/** What may stand below a header that settings are added to. */
function randomKeys(table: string, random: Random): string[] {
  const lines: string[] = [];
  if (table.includes("containerd]") || table.includes("images")) {
    const snapshotter = random.pick(['"overlayfs"', "'zfs' # z", '"nydus"']);
    if (random.chance(0.5)) lines.push(`    snapshotter = ${snapshotter}`);
    if (random.chance(0.5)) lines.push(`disable_snapshot_annotations =${random.pick(["true", " false"])}`);
  }
  if (table.includes("nydus]") && random.chance(0.5)) lines.push(`address = "${SOCKET}"`);
  return lines;
}

/** A random configuration: lines that may stand in one, in a random order, with random spacing and line ends. */
function randomConfig(seed: number): string {
  const random = new Random(seed);
  const eol = random.pick(["\n", "\n", "\r\n"]);
  const lines = [random.pick(["", "# head", "version = 2", "version = 2 # two"])];
  const others = ['imports = ["x"]', "proxy_plugins.other.type = 'snapshot'", "oom_score = -999"];
  if (random.chance(0.3)) lines.push(random.pick(others));
  for (const [i, table] of shuffled(TABLES, random).slice(0, random.below(9)).entries()) {
    lines.push(...(random.chance(0.3) ? ["", "# about"] : []), table, ...randomKeys(table, random));
    if (random.chance(0.6)) lines.push(`  k${i} = ${random.pick(ANY_VALUES)}`);
  }
  const unpacker = ['[[plugins."io.containerd.transfer.v1.local".unpack_config]]', 'snapshotter = "zfs"'];
  if (random.chance(0.3)) lines.push(...unpacker);
  return lines.join("\n").replaceAll("\n", eol) + random.pick(["", eol, `${eol}${eol}`, `${eol}# end`]);
}

test("random configurations: what is parsed is what was there and what is added, and it goes byte for byte", () => {
  let added = 0;
  for (let seed = 1; seed <= 1500; seed++) {
    const text = randomConfig(seed);
    const [major, cri] = [1 + (seed % 2), seed % 3 === 0 && text.includes("version = 2")];
    try {
      parseConfig(text);
    } catch {
      continue; // a table that was defined twice
    }
    let made: string;
    try {
      made = add(text, major, cri);
    } catch (error) {
      if (error instanceof NydusError && error.code === "EEXIST") continue; // counted below
      throw new Error(`seed ${seed}`, { cause: error });
    }
    added++;
    try {
      expect(removeSettings(made)).toBe(text);
      expect(values(made)).toEqual(merged(text, settingsFor(text, major, cri)));
    } catch (error) {
      throw new Error(`seed ${seed}: ${JSON.stringify(text)}`, { cause: error });
    }
  }
  expect(added).toBeGreaterThan(1000);
});

type Tree = { [key: string]: Tree };

function child(table: Tree, key: string): Tree {
  table[key] ??= {};
  return table[key];
}

/** What the text says, with the settings added by plain assignments. */
function merged(text: string, settings: ReturnType<typeof containerdSettings>): Record<string, unknown> {
  const config = values(text);
  for (const setting of settings) {
    const above = setting.path.slice(0, -1).reduce(child, config as Tree) as Record<string, unknown>;
    const last = setting.path.at(-1) as string;
    if (setting.kind === "table") above[last] = { ...(above[last] as Tree), ...setting.values };
    else above[last] = [...((above[last] as Tree[] | undefined) ?? [setting.assumed]), setting.element];
  }
  return config;
}

test("mutated configurations raise no other error than ours", () => {
  const random = new Random(7);
  const base = add(DEFAULT_2, 2, true);
  for (let i = 0; i < 400; i++) {
    const at = random.below(base.length);
    const cut = random.below(8);
    const text = base.slice(0, at) + String.fromCharCode(random.below(128)).repeat(cut & 1) + base.slice(at + cut);
    for (const change of [() => add(text, 2, true), () => removeSettings(text)]) {
      try {
        change();
      } catch (error) {
        expect(error).toBeInstanceOf(NydusError);
      }
    }
  }
});

test.each([
  ["containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", 1, 6],
  ["containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", 1, 7],
  ["containerd github.com/containerd/containerd/v2 v2.2.1 dea7da592f5d1d2b7755e3a161be07f43fad8f75", 2, 2],
  ["2.2", 2, 2],
] as const)("parseContainerdVersion() reads %p", (text, major, minor) => {
  expect(parseContainerdVersion(text)).toEqual({ major, minor });
});
