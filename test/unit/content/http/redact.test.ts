import { expect, test } from "bun:test";
import { redact, secretsOf } from "../../../../src/content/http/redact.ts";

test.each([
  ["the token tok-canary is bad", ["tok-canary"], "the token … is bad"],
  ["as query: a%26canary", ["a&canary"], "as query: …"],
  ["Authorization: Bearer abcdefgh12345", [], "Authorization: Bearer …"],
  ["BASIC dXNlcjpjYW5hcnk=", [], "BASIC …"],
  ["at https://u:canary@host/x?sig=canary&y done", [], "at https://host/x?… done"],
  ["the basic idea", [], "the basic idea"],
  ["ab stays", ["ab"], "ab stays"],
])("redact(%p, %p) is %p", (text, secrets, expected) => {
  expect(redact(text, secrets)).toBe(expected);
});

test("secretsOf() knows what authorizations and cookies carry, decoded too", () => {
  const headers = { Authorization: `Basic ${btoa("me:can:ary")}`, accept: "x", cookie: "a=b" };
  expect(secretsOf(headers)).toEqual([
    `Basic ${btoa("me:can:ary")}`,
    btoa("me:can:ary"),
    "me:can:ary",
    "can:ary",
    "a=b",
    "",
  ]);
});
