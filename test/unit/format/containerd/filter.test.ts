import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import { parseFilters } from "../../../../src/format/containerd/filter.ts";
import { Random } from "../../../kit/random.ts";

/** Fields and labels of what is filtered. */
interface Item {
  readonly fields: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
}

const ITEM: Item = {
  fields: { kind: "active", name: "k8s.io/2/sha256:ab", parent: "" },
  labels: { a: "1", "a.b": "x/y", "containerd.io/snapshot.ref": "sha256:ab", é: "ü" },
};

function matches({ fields, labels }: Item, ...texts: string[]): boolean {
  return parseFilters(texts)(([field = "", ...rest]) => (field === "labels" ? labels[rest.join(".")] : fields[field]));
}

describe("parseFilters()", () => {
  // What containerd's own filters package says of the same.
  test.each([
    ["", true],
    ["kind==active", true],
    ["kind==view", false],
    ["kind==active,name==k8s.io/2/sha256:ab", true],
    ["kind==active,name==x", false],
    ["parent", true],
    ["nothing", false],
    ['parent==""', true],
    ['parent!=""', false],
    ["nothing!=x", true],
    ['nothing==""', false],
    ["labels.a", true],
    ["labels.z", false],
    ["labels.a==1", true],
    ["labels.a.b==x/y", true],
    ['labels."a.b"==x/y', true],
    ['labels."containerd.io/snapshot.ref"==sha256:ab,parent==""', true],
    ["name~=/^k8s/", true],
    ["name~=|sha256:[0-9a-f]+$|", true],
    ["name~=/^(?i)K8S/", false],
    ["name~=/(?i)^K8S/", true],
    ['name~="("', false],
    ["name~=", undefined],
    ['"kind"=="\\x61ctive"', true],
    ['kind=="\\141ctive"', true],
    ['labels.a!="\\u0031"', false],
    ['labels."é"=="\\xc3\\xbc"', true],
    [" kind == active", true],
    ["kind==active ", undefined],
    ["kind ,name", undefined],
    ["kind===active", undefined],
    ["==active", undefined],
    ["kind==active name", undefined],
    ["kind==/active/", undefined],
    ['kind=="\\q"', undefined],
    ['kind=="\\400"', undefined],
    ['kind=="active', undefined],
    ["kind==active,", undefined],
    ["labels.", undefined],
    ["kind== .x", undefined],
  ] as const)("%s gives %p", (text, wanted) => {
    if (wanted !== undefined) expect(matches(ITEM, text)).toBe(wanted);
    else expect(() => matches(ITEM, text)).toThrow(/^Cannot read filter/);
  });

  test("one of several filters is enough, and none at all matches", () => {
    expect(matches(ITEM, "kind==view", "labels.a==1")).toBe(true);
    expect(matches(ITEM, "kind==view", "labels.a==2")).toBe(false);
    expect(matches(ITEM)).toBe(true);
  });

  test("whatever the text, only EINVAL is thrown", () => {
    const pieces = [
      "name",
      "labels",
      ".",
      ",",
      "==",
      "~=",
      '"',
      "/",
      "|",
      "\\",
      "x",
      "u0",
      "\u{1f600}",
      "\0",
      " ",
      "=",
    ];
    const random = new Random(20_261_124);
    for (let i = 0; i < 20_000; i++) {
      const text = Array.from({ length: 1 + random.below(8) }, () => pieces[random.below(pieces.length)]).join("");
      try {
        matches(ITEM, text);
      } catch (error) {
        if (!(error instanceof NydusError) || error.code !== "EINVAL")
          throw new Error(JSON.stringify(text), { cause: error });
      }
    }
  });
});
