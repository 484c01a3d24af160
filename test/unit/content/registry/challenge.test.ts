import { expect, test } from "bun:test";
import { parseChallenges } from "../../../../src/content/registry/challenge.ts";
import { mutate, Random } from "../../../kit/random.ts";

const plain = (header: string): unknown =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

test.each([
  [
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push"',
    [
      [
        "bearer",
        {
          realm: "https://auth.docker.io/token",
          service: "registry.docker.io",
          scope: "repository:library/x:pull,push",
        },
      ],
    ],
  ],
  ['BEARER Realm = "a" , Service=b', [["bearer", { realm: "a", service: "b" }]]],
  [
    'Basic realm="x", Bearer realm="y",scope=""',
    [
      ["basic", { realm: "x" }],
      ["bearer", { realm: "y", scope: "" }],
    ],
  ],
  [
    'Negotiate, Bearer realm="a\\"b,\\\\c"',
    [
      ["negotiate", {}],
      ["bearer", { realm: 'a"b,\\c' }],
    ],
  ],
  ['Bearer realm="first",realm="second"', [["bearer", { realm: "first" }]]],
  ['Bearer realm="never ends', [["bearer", {}]]],
  ["", []],
  ['="x"', []],
])("parseChallenges(%p)", (header, expected) => {
  expect(plain(header)).toEqual(expected);
});

test("parseChallenges() takes any header without throwing, in time (seed 5)", () => {
  const random = new Random(5);
  const seed = new TextEncoder().encode('Bearer realm="https://a/b",service="c\\"d",scope="e:f", Basic realm="g"');
  for (let i = 0; i < 2000; i++) parseChallenges(Buffer.from(mutate(seed, random)).toString("latin1"));
  parseChallenges(`Bearer ${'a="'.repeat(4000)}`);
  parseChallenges(`Bearer a="${"\\".repeat(9000)}`);
  parseChallenges(", ".repeat(5000));
});
