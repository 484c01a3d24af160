import { describe, expect, test } from "bun:test";
import type { Digest } from "../../../../src/base/digest.ts";
import type { NydusError } from "../../../../src/base/errors.ts";
import { parseConfig, patchConfig } from "../../../../src/format/oci/config.ts";
import { memberSpans } from "../../../../src/format/oci/json.ts";
import { parseManifest } from "../../../../src/format/oci/manifest.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { goldenBlob, goldenImage } from "../../../kit/golden-layers.ts";

const digest = (digit: string): Digest => `sha256:${digit.repeat(64)}` as Digest;
const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
const patch = { diffIds: [digest("a"), digest("b")], history: [{ created_by: "x" }] };
const ROOTFS = JSON.stringify({ type: "layers", diff_ids: patch.diffIds });
const HISTORY = JSON.stringify(patch.history);

describe("patchConfig()", () => {
  test.each([
    [
      "ugly space, escapes, big numbers and nesting stay",
      '\n\t{ "config" :{"Env":["A=\\u00e9\\"}]","B=,"],"N":12345678901234567890.5e10}\r\n, "rootfs"\t:\n{"type":"layers","diff_ids":[]} , "x":"\\\\","history" : [ {"a":"]}"} ] ,"é":[1 , {"rootfs":1}], "os":"linux"}  ',
      '\n\t{ "config" :{"Env":["A=\\u00e9\\"}]","B=,"],"N":12345678901234567890.5e10}\r\n, "rootfs"\t:\nROOTFS , "x":"\\\\","history" : HISTORY ,"é":[1 , {"rootfs":1}], "os":"linux"}  ',
    ],
    [
      "a missing history is put last",
      '{"rootfs":{"diff_ids":null}, "a":1 }',
      '{"rootfs":ROOTFS, "a":1,"history":HISTORY }',
    ],
    [
      "an escaped name is the same name",
      '{"r\\u006fotfs":{},"history":null}',
      '{"r\\u006fotfs":ROOTFS,"history":HISTORY}',
    ],
    [
      "both of two are replaced",
      '{"rootfs":{"diff_ids":5},"rootfs":{},"history":[]}',
      '{"rootfs":ROOTFS,"rootfs":ROOTFS,"history":HISTORY}',
    ],
    [
      "scalars at the ends",
      '{"a":true,"history":null,"b":-1.5E+3,"rootfs":{}}',
      '{"a":true,"history":HISTORY,"b":-1.5E+3,"rootfs":ROOTFS}',
    ],
    [
      "members called __proto__ stay",
      '{"__proto__":{"a":1},"rootfs":{},"history":[]}',
      '{"__proto__":{"a":1},"rootfs":ROOTFS,"history":HISTORY}',
    ],
  ])("%s", (_, before, after) => {
    const wanted = after.replaceAll("ROOTFS", ROOTFS).replaceAll("HISTORY", HISTORY);
    const patched = patchConfig(encode(before), patch);
    expect(decode(patched)).toBe(wanted);
    expect(parseConfig(patched)).toMatchObject(patch);
  });

  test("with what was there before, gives the golden configs back as they are", () => {
    for (const ref of ["oci", "docker", "nydus", "nerdctl-nydus"]) {
      const image = goldenImage(smallGolden(), ref);
      const bytes = goldenBlob(smallGolden(), parseManifest(goldenBlob(smallGolden(), image)).config);
      const { diffIds, history = [] } = parseConfig(bytes);
      expect(decode(patchConfig(bytes, { diffIds, history }))).toBe(decode(bytes));
    }
  });

  test("history entries keep members that the specification lacks", () => {
    const { history = [] } = parseConfig(encode('{"rootfs":{},"history":[{"created_by":"x","zz":[1]}]}'));
    expect(decode(patchConfig(encode('{"rootfs":{},"history":[]}'), { diffIds: [], history }))).toContain(
      '{"created_by":"x","zz":[1]}',
    );
  });
});

describe("parseConfig()", () => {
  test("reads platform, diff ids and history", () => {
    const text = `{"architecture":"arm","variant":"v7","os":"linux","created":"t","rootfs":${ROOTFS},"history":[{"empty_layer":true}]}`;
    expect(parseConfig(encode(text))).toEqual({
      platform: { os: "linux", architecture: "arm", variant: "v7" },
      created: "t",
      diffIds: patch.diffIds,
      history: [{ empty_layer: true }],
    });
  });

  test.each([
    ["no rootfs", "{}"],
    ["a rootfs of another type", '{"rootfs":{"type":"other"}}'],
    ["diff ids that are no digests", '{"rootfs":{"diff_ids":["sha256:x"]}}'],
    ["a history that is no list", '{"rootfs":{},"history":{}}'],
    ["a history of text", '{"rootfs":{},"history":["x"]}'],
    ["a rootfs in other case, which Go would take", '{"rootfs":{},"RootFS":{"diff_ids":[]}}'],
  ])("refuses %s", (_, text) => {
    let caught: unknown;
    try {
      parseConfig(encode(text));
    } catch (error) {
      caught = error;
    }
    expect((caught as NydusError).code).toBe("EUCLEAN");
  });
});

test("memberSpans() finds each value's own bytes", () => {
  const text = '{ "a" : [1,"]"] , "b":"x\\"y","c" : 1e5,"d":{ } }';
  const values = memberSpans(encode(text)).members.map(({ key, start, end }) => [key, text.slice(start, end)]);
  expect(values).toEqual([
    ["a", '[1,"]"]'],
    ["b", '"x\\"y"'],
    ["c", "1e5"],
    ["d", "{ }"],
  ]);
});
