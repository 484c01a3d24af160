import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFileSource } from "../../../../src/content/store/file-source.ts";
import { openSource, openTarget } from "../../../../src/content/store/open-store.ts";
import { parseIndex } from "../../../../src/format/oci/manifest.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { byteSourceSuite, failureOf } from "../../../suite/byte-source.ts";
import { describeBytes, expectImage, imageStoreSuite, sampleImage, writeImage } from "../../../suite/image-store.ts";

const hasSkopeo = spawnSync("skopeo", ["--version"]).status === 0;

function scratch(): { dir: string; context: { root: string } } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), "nydus-layout-"));
  return {
    dir,
    context: { root: join(dir, "state") },
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}

byteSourceSuite("A file", async (bytes) => {
  const temp = scratch();
  writeFileSync(join(temp.dir, "file"), bytes);
  const source = await openFileSource(join(temp.dir, "file"), bytes.length);
  const dispose = async (): Promise<void> => {
    await source.close();
    temp[Symbol.dispose]();
  };
  return { source, bytes, [Symbol.asyncDispose]: dispose };
});

imageStoreSuite("oci:DIR", async () => {
  const temp = scratch();
  const name = (reference: string): string => `oci:${temp.dir}/layout:${reference}`;
  return {
    source: (reference) => openSource(name(reference), temp.context),
    target: (reference) => openTarget(name(reference), temp.context),
    [Symbol.asyncDispose]: async () => temp[Symbol.dispose](),
  };
});

test("a layout keeps its other images, and an image written anew takes the place of the one of its name", async () => {
  using temp = scratch();
  const write = async (reference: string, label: string): Promise<void> => {
    await using target = await openTarget(`oci:${temp.dir}:${reference}`, temp.context);
    await writeImage(target, sampleImage(label));
  };
  await write("one", "one");
  await write("two", "two");
  await write("one", "new");
  const index = parseIndex(readFileSync(join(temp.dir, "index.json")));
  expect(index.manifests.map((entry) => entry.annotations?.["org.opencontainers.image.ref.name"])).toEqual([
    "two",
    "one",
  ]);
  await using one = await openSource(`oci:${temp.dir}:one`, temp.context);
  await expectImage(one, sampleImage("new"));
  await using two = await openSource(`oci:${temp.dir}:two`, temp.context);
  await expectImage(two, sampleImage("two"));
  await using second = await openSource(`oci:${temp.dir}:@1`, temp.context);
  await expectImage(second, sampleImage("new"));
});

test("without a name the only image is taken, and of several none: the error lists them", async () => {
  using temp = scratch();
  for (const reference of ["", ":b.c/d:1", ":other"]) {
    await using target = await openTarget(`oci:${temp.dir}${reference}`, temp.context);
    await writeImage(target, sampleImage(`image${reference}`));
    if (reference !== "") continue;
    await using only = await openSource(`oci:${temp.dir}`, temp.context);
    await expectImage(only, sampleImage("image"));
  }
  await using source = await openSource(`oci:${temp.dir}`, temp.context);
  const error = await failureOf(source.root());
  expect(error.code).toBe("ENOENT");
  expect(error.message).toContain("@0, b.c/d:1, other");
  await using named = await openSource(`oci:${temp.dir}:none`, temp.context);
  expect((await failureOf(named.root())).message).toContain('no image "none"; there is @0, b.c/d:1, other');
});

test("members and entries of index.json that this program does not know stay as they are", async () => {
  using temp = scratch();
  const foreign = { mediaType: "x/y", digest: `sha512:${"a".repeat(128)}`, size: 1, future: [1, { a: null }] };
  writeFileSync(
    join(temp.dir, "index.json"),
    JSON.stringify({ schemaVersion: 2, manifests: [foreign], other: { b: 1 } }),
  );
  await using target = await openTarget(`oci:${temp.dir}:mine`, temp.context);
  await writeImage(target, sampleImage("mine"));
  const index = JSON.parse(readFileSync(join(temp.dir, "index.json"), "utf8"));
  expect(index.other).toEqual({ b: 1 });
  expect(index.manifests[0]).toEqual(foreign);
  await using source = await openSource(`oci:${temp.dir}:mine`, temp.context);
  await expectImage(source, sampleImage("mine"));
});

test("writers of different images to one layout at once lose none", async () => {
  using temp = scratch();
  const names = Array.from({ length: 12 }, (_, i) => `image-${i}`);
  await Promise.all(
    names.map(async (name) => {
      await using target = await openTarget(`oci:${temp.dir}:${name}`, temp.context);
      await writeImage(target, sampleImage(name));
    }),
  );
  for (const name of names) {
    await using source = await openSource(`oci:${temp.dir}:${name}`, temp.context);
    await expectImage(source, sampleImage(name));
  }
  expect(readdirSync(temp.dir).sort()).toEqual(["blobs", "index.json", "oci-layout"]);
});

test("a directory made for an image that fails is gone again; one that was there stays", async () => {
  using temp = scratch();
  mkdirSync(join(temp.dir, "there"));
  for (const name of ["new/deep", "there"]) {
    await using target = await openTarget(`oci:${temp.dir}/${name}`, temp.context);
    const { config, configBytes } = sampleImage("x");
    await target.putBytes(config, configBytes);
    await using sink = await target.newBlob();
    await sink.write(configBytes);
  }
  expect(existsSync(join(temp.dir, "new"))).toBe(false);
  expect(readdirSync(join(temp.dir, "there"))).toEqual([]);
});

test("blobs that are cut, changed or no files are refused, naming the digest", async () => {
  using temp = scratch();
  const image = sampleImage("damaged");
  await using target = await openTarget(`oci:${temp.dir}`, temp.context);
  await writeImage(target, image);
  const path = (digest: string): string => join(temp.dir, "blobs", "sha256", digest.slice(7));
  await using source = await openSource(`oci:${temp.dir}`, temp.context);
  truncateSync(path(image.layer.digest), 10);
  const cut = await failureOf(source.openBlob(image.layer));
  expect([cut.code, cut.at.digest]).toEqual(["EUCLEAN", image.layer.digest]);
  writeFileSync(
    path(image.config.digest),
    image.configBytes.map((byte) => byte ^ 1),
  );
  expect((await failureOf(source.readBlob(image.config))).code).toBe("EBADMSG");
  writeFileSync(
    path(image.root.digest),
    image.manifest.map((byte) => byte ^ 1),
  );
  expect((await failureOf(source.root())).code).toBe("EBADMSG");
  rmSync(path(image.layer.digest));
  mkdirSync(path(image.layer.digest));
  expect((await failureOf(source.openBlob(image.layer))).code).toBe("EINVAL");
});

test.each([
  ["", "EUCLEAN"],
  ["[]", "EUCLEAN"],
  ['{"manifests":{}}', "EUCLEAN"],
  ['{"manifests":[7]}', "EUCLEAN"],
  ['{"manifests":[{"digest":"sha256:aa","size":1,"mediaType":"x"}]}', "EUCLEAN"],
  ['{"manifests":[]}', "ENOENT"],
])("an index.json of %p is refused with %p", async (text, code) => {
  using temp = scratch();
  writeFileSync(join(temp.dir, "index.json"), text);
  await using source = await openSource(`oci:${temp.dir}`, temp.context);
  expect((await failureOf(source.root())).code as string).toBe(code);
});

test("no directory, no layout, and a layout of another version are told apart", async () => {
  using temp = scratch();
  await using missing = await openSource(`oci:${temp.dir}/none`, temp.context);
  expect((await failureOf(missing.root())).message).toContain("no index.json");
  writeFileSync(join(temp.dir, "oci-layout"), '{"imageLayoutVersion": "2.0.0"}');
  expect((await failureOf(openTarget(`oci:${temp.dir}`, temp.context))).code).toBe("ENOTSUP");
  expect((await failureOf(openTarget(`oci:${temp.dir}:@0`, temp.context))).code).toBe("EINVAL");
});

test("every image of the golden layout is there, by skopeo's names", async () => {
  const dir = join(smallGolden(), "images");
  const names = JSON.parse(readFileSync(join(dir, "index.json"), "utf8")).manifests.map(
    (entry: { annotations: Record<string, string> }) => entry.annotations["org.opencontainers.image.ref.name"],
  );
  expect(names.length).toBeGreaterThan(5);
  for (const name of names) {
    await using source = await openSource(`oci:${dir}:${name}`, { root: "/nonexistent" });
    const { descriptor, bytes } = await source.root();
    expect(describeBytes(bytes, descriptor.mediaType).digest).toBe(descriptor.digest);
  }
});

test.skipIf(!hasSkopeo)("skopeo reads what this program wrote", async () => {
  using temp = scratch();
  await using target = await openTarget(`oci:${temp.dir}/mine:v1`, temp.context);
  const image = sampleImage("for skopeo");
  await writeImage(target, image);
  const copied = spawnSync("skopeo", ["inspect", "--raw", `oci:${temp.dir}/mine:v1`], { encoding: "buffer" });
  expect(copied.stderr.toString()).toBe("");
  expect(copied.stdout.equals(image.manifest)).toBe(true);
});
