import { expect, test } from "bun:test";
import {
  decodeMessage,
  encodeMessage,
  type HolderOrder,
  kindOf,
} from "../../../../../src/operation/mount/holder/protocol.ts";

test("a message is one line, and comes out as it went in", () => {
  const plan = { kind: "data", dev: 1, ino: 2, dataEnd: 4096 } as const;
  const order: HolderOrder = { do: "hold", entry: { key: "data:1:2", version: 1, plan, data: { path: "a\nb" } } };
  const text = encodeMessage(order);
  expect(text.trimEnd()).not.toContain("\n");
  expect(decodeMessage<HolderOrder>(text)).toEqual(order);
});

test.each(["", "{", "null", "[]", '{"do":1}', "7"])("what no version of the holder means is ignored: %p", (text) => {
  expect(decodeMessage(text)).toBeUndefined();
});

test("kindOf() is what stands before the first colon", () => {
  expect(["fuse:63", "data:1:2", "lock:", "none"].map(kindOf)).toEqual(["fuse", "data", "lock", ""]);
});
