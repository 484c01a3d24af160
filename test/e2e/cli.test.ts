import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ERROR_CODES } from "../../src/base/errors.ts";
import { smallGolden } from "../kit/golden.ts";
import { isBuilt, nydus, nydusOk, PROGRAM } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, readTree, treeOf } from "../kit/tree.ts";

const PROJECT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const GOLDEN = smallGolden();
const RAFS = join(GOLDEN, "rafs", "v6-zstd-blake3-64k");
const PARTS = ["--bootstrap", join(RAFS, "merged.boot"), "--blob-dir", join(RAFS, "blobs")];
const COMMANDS = ["convert", "inspect", "ls", "cat", "unpack", "check", "mount", "umount", "mounts"];
const isRoot = process.getuid?.() === 0;

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-cli-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe.skipIf(!isBuilt)("nydus", () => {
  test("--version prints version and commit, also under another name", async () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, "package.json"), "utf8")) as { version: string };
    const line = /^nydus version (\S+), commit ([0-9a-f]{7,}(-dirty)?|unknown)\n$/;
    expect(line.exec(await nydusOk("--version"))?.[1]).toBe(version);
    symlinkSync(PROGRAM, join(dir, "other"));
    expect((await run(join(dir, "other"), "-v")).stdout).toMatch(line);
  });

  test("--help lists every command on stdout, and each has its own help", async () => {
    const { stdout, stderr, status } = await nydus("--help");
    expect([status, stderr]).toEqual([0, ""]);
    for (const command of COMMANDS) {
      expect(stdout).toMatch(new RegExp(`^  ${command} +\\S`, "m"));
      const own = await nydusOk(command, "--help");
      expect(own).toContain(`Usage:\n  nydus ${command} [flags]`);
      expect(await nydusOk("help", command)).toBe(own);
      expect(stdout).toContain(own.split("\n", 1)[0] ?? "");
    }
  });

  test.each([
    [[], "nydus: Missing command; see 'nydus --help'\n"],
    [["frobnicate"], "nydus: Unknown command \"frobnicate\"; see 'nydus --help'\n"],
    [["--frob"], "nydus: Unknown flag --frob; see 'nydus --help'\n"],
    [["convert", "a"], "nydus: Missing argument TARGET; see 'nydus convert --help'\n"],
    [["convert", "a", "b", "c"], "nydus: Unexpected argument \"c\"; see 'nydus convert --help'\n"],
    [["mounts", "--lazy"], "nydus: Unknown flag --lazy; see 'nydus mounts --help'\n"],
    [["convert", "a", "b", "--compressor", "gzip"], "nydus: Flag --compressor takes one of zstd, lz4_block, none"],
    [["convert", "a", "b", "--chunk-size", "3000"], 'nydus: Cannot use --chunk-size "3000": a power of two from'],
    [["convert", "a", "b", "--compression-level", "23"], 'nydus: Cannot use --compression-level "23"'],
    [["convert", "a", "b", "--all-platforms", "--platform", "linux"], 'nydus: Cannot use --platform "linux": either'],
    [["inspect", "--bootstrap", "x"], "nydus: Flags --bootstrap and --blob-dir go together"],
    [["inspect"], "nydus: Missing argument IMAGE"],
    [["cat", "oci:x"], "nydus: Missing argument PATH"],
  ])("%j is an error of usage, on one line of stderr", async (words, message) => {
    const { stdout, stderr, status } = await nydus(...words);
    expect(stderr).toStartWith(message);
    expect(stderr.split("\n")).toHaveLength(2);
    expect([stdout, status]).toEqual(["", 2]);
  });

  test("an error has its exit status, names what it is about, and is JSON where JSON is asked for", async () => {
    const missing = await nydus("cat", ...PARTS, "/no/such/file");
    expect([missing.status, missing.stdout]).toEqual([3, ""]);
    expect(missing.stderr).toBe('nydus: Cannot find file in image: no such path ("/no/such/file")\n');
    const json = await nydus("--json", "cat", ...PARTS, "/no/such/file");
    expect(JSON.parse(json.stderr)).toEqual({
      error: { code: "ENOENT", message: "Cannot find file in image: no such path", at: { path: "/no/such/file" } },
    });
    expect((await nydus("convert", "--fs-version", "5", "oci:a", "oci:b")).status).toBe(6);
    expect((await nydus("inspect", `oci:${join(dir, "nothing")}`)).status).toBe(3);
  });

  test("a stack is printed with --debug only", async () => {
    expect((await nydus("cat", ...PARTS, "/no")).stderr).not.toContain("    at ");
    expect((await nydus("cat", ...PARTS, "/no", "--debug")).stderr).toContain("    at ");
  });

  test("looks at a bootstrap with its blobs: ls, cat, inspect, check, unpack", async () => {
    const tree = readTree(join(GOLDEN, "tree.jsonl"));
    const listed = await nydusOk("ls", "-R", ...PARTS);
    expect(listed.trimEnd().split("\n")).toHaveLength(tree.length - 1);
    expect(await nydusOk("ls", "-l", ...PARTS, "/etc")).toMatch(/^-rw-r--r-- .* 1970-01-01 00:00:00 \/etc\/epoch$/m);
    const file = tree.find(({ type, size }) => type === "file" && size === 65536 + 1) ?? tree.find(({ size }) => size);
    const sum = await shell(`${PROGRAM} cat ${PARTS.join(" ")} ${file?.path} | sha256sum`);
    expect(sum.split(" ")[0]).toBe(file?.sha256 ?? "");
    const report = JSON.parse(await nydusOk("inspect", "--json", ...PARTS)) as { names: number };
    expect(report.names).toBe(tree.length);
    expect(await nydusOk("check", ...PARTS)).toEndWith("0 problems\n");
    const archive = await shell(`${PROGRAM} unpack ${PARTS.join(" ")} - | tar -t | wc -l`);
    expect(Number(archive)).toBe(tree.length);
  });

  test("reads nothing from the directory that it is started in", async () => {
    const cwd = join(dir, "hostile");
    mkdirSync(cwd);
    const touch = (name: string): string => `require("node:fs").writeFileSync(${JSON.stringify(join(cwd, name))}, "")`;
    writeFileSync(join(cwd, "preload.js"), `${touch("preloaded")};\nprocess.exit(99);\n`);
    writeFileSync(join(cwd, "bunfig.toml"), 'preload = ["./preload.js"]\n[run]\nbun = true\n');
    writeFileSync(join(cwd, ".env"), `NYDUS_ROOT=${join(cwd, "root-of-env")}\nBUN_OPTIONS=--preload ./preload.js\n`);
    writeFileSync(join(cwd, "tsconfig.json"), '{"compilerOptions": {"paths": {"*": ["./preload.js"]}}}');
    writeFileSync(join(cwd, "package.json"), '{"name": "hostile", "type": "commonjs"}');
    mkdirSync(join(cwd, "node_modules", "citty"), { recursive: true });
    writeFileSync(join(cwd, "node_modules", "citty", "index.js"), touch("resolved"));
    const before = readdirSync(cwd);
    const check = await shell(
      `cd ${cwd} && ${PROGRAM} check ${PARTS.join(" ")} && ${PROGRAM} --version && ${PROGRAM} mounts`,
    );
    expect(check).toContain("0 problems");
    expect(readdirSync(cwd)).toEqual(before);
  });

  test("ends quietly when nobody reads its output any more", async () => {
    const { stdout, stderr } = await run(
      "bash",
      "-c",
      `set -o pipefail; ${PROGRAM} unpack ${PARTS.join(" ")} - | head -c 1000 | wc -c; echo status \${PIPESTATUS[0]}`,
    );
    expect(stdout).toBe("1000\nstatus 141\n");
    expect(stderr).toBe("");
  });

  test("ends with status 130 at SIGINT, and says so", async () => {
    const child = Bun.spawn(["bash", "-c", `exec ${PROGRAM} unpack ${PARTS.join(" ")} -`], {
      stdout: "pipe",
      stderr: "pipe",
    });
    let pieces = 0;
    for await (const _ of child.stdout) {
      if (pieces++ === 0) child.kill("SIGINT"); // it is at work, and waits for us to read on
    }
    expect(await child.exited).toBe(130);
    expect(await new Response(child.stderr).text()).toBe("nydus: Interrupted by SIGINT\n");
  });

  test.skipIf(!isRoot)("unpacks to a directory, and refuses one that is not empty", async () => {
    const target = join(dir, "unpacked");
    await nydusOk("unpack", ...PARTS, target);
    const ignore = (field: string): boolean => field === "mtime";
    expect(diffTrees(readTree(join(GOLDEN, "tree.jsonl")), await treeOf(target), { ignore })).toEqual([]);
    const again = await nydus("unpack", ...PARTS, target);
    expect([again.status, again.stderr]).toEqual([
      11,
      `nydus: Cannot unpack: the directory is not empty (${JSON.stringify(target)})\n`,
    ]);
  });

  test.skipIf(!isRoot || Bun.which("setpriv") === null)("says what needs root when it is not root", async () => {
    const home = join(dir, "nobody");
    await shell(`mkdir ${home} && chown 65534:65534 ${home} && chmod 755 ${dir}`);
    const copy = join(home, "nydus");
    await shell(`cp ${PROGRAM} ${copy} && cp -r ${RAFS} ${home}/rafs && chmod -R a+rX ${home}`);
    const parts = `--bootstrap ${home}/rafs/merged.boot --blob-dir ${home}/rafs/blobs`;
    const asNobody = `cd / && setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=${home}`;
    const unpack = await run("bash", "-c", `${asNobody} ${copy} unpack ${parts} ${home}/out`);
    expect(unpack.status).toBe(9);
    expect(unpack.stderr).toContain("another owner needs root");
    expect(existsSync(join(home, "out"))).toBe(false);
    expect(await shell(`${asNobody} ${copy} unpack ${parts} - | tar -t | wc -l`)).not.toBe("0\n");
  });
});

test("the README's table of exit codes is the one in base/errors.ts", () => {
  const readme = readFileSync(join(PROJECT, "README.md"), "utf8");
  const rows = [...readme.matchAll(/^\| (\d+) \| (.+) \|$/gm)].map(([, status, meaning]) => `${status} ${meaning}`);
  const byStatus = Map.groupBy(Object.values(ERROR_CODES), ({ exit }) => exit);
  for (const [exit, codes] of byStatus) {
    expect(rows).toContain(`${exit} ${codes.map(({ meaning }) => meaning).join("; ")}`);
  }
  expect(rows).toContain("0 success");
  expect(rows).toContain("141 whoever read stdout has gone");
  expect(rows).toHaveLength(byStatus.size + 2);
});
