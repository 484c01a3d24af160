import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Digest } from "../../../../src/base/digest.ts";
import { heldCredential } from "../../../../src/content/registry/credential-files.ts";
import { openRegistrySource } from "../../../../src/content/registry/registry-source.ts";
import { SharedRegistries } from "../../../../src/content/registry/shared-registries.ts";
import { parseReference } from "../../../../src/format/oci/reference.ts";
import { digestOf, type FakeRegistry, startFakeRegistry } from "../../../kit/fake-registry.ts";

const BLOB = Buffer.from("0123456789");
const DIGEST = digestOf(BLOB) as Digest;

let fake: FakeRegistry;
let tokens: string[];
let given: number;

beforeEach(async () => {
  fake = await startFakeRegistry();
  fake.blobs.set(DIGEST, BLOB);
  tokens = [];
  given = 0;
  fake.rules.push((request) => {
    if (request.path.startsWith("/token")) {
      tokens.push(new URL(request.path, fake.origin).searchParams.get("scope") ?? "");
      return { status: 200, body: JSON.stringify({ token: `t${++given}`, expires_in: 300 }) };
    }
    if (/^Bearer t\d+$/.test(request.headers["authorization"] ?? "")) return undefined;
    const [, repository] = /^\/v2\/(.+)\/blobs\//.exec(request.path) ?? [];
    const challenge = `Bearer realm="${fake.origin}/token",service="s",scope="repository:${repository}:pull"`;
    return { status: 401, headers: { "www-authenticate": challenge }, body: "{}" };
  });
});
afterEach(async () => {
  await fake[Symbol.asyncDispose]();
});

async function readAs(name: string, shared?: SharedRegistries): Promise<string> {
  const reference = parseReference(`${fake.host}/${name}`);
  const registry = shared === undefined ? { credentials: heldCredential(undefined) } : { shared };
  await using source = openRegistrySource(reference, name, { root: "/nowhere", registry });
  const blob = await source.openBlob({ digest: DIGEST, size: BLOB.length });
  return Buffer.from(await blob.readAt({ start: 0, end: BLOB.length })).toString();
}

describe("images of a process that shares what it has with registries", () => {
  test("ask for one token for each repository, however many they are, at once and one after another", async () => {
    await using shared = new SharedRegistries(heldCredential(undefined));
    const names = ["a/b:1", "a/b:2", "c:1", "a/b:3"];
    expect(await Promise.all(names.map((name) => readAs(name, shared)))).toEqual(names.map(() => "0123456789"));
    for (const name of names) expect(await readAs(name, shared)).toBe("0123456789");
    expect(tokens.sort()).toEqual(["repository:a/b:pull", "repository:c:pull"]);
  });

  test("ask for one each where nothing is shared", async () => {
    for (const name of ["a/b:1", "a/b:2", "a/b:3"]) await readAs(name);
    expect(tokens.length).toBe(3);
  });

  test("go on when one of them is closed while another reads", async () => {
    await using shared = new SharedRegistries(heldCredential(undefined));
    const first = openRegistrySource(parseReference(`${fake.host}/a`), "a", { root: "/", registry: { shared } });
    const blob = await first.openBlob({ digest: DIGEST, size: BLOB.length });
    await blob.readAt({ start: 0, end: 1 });
    await readAs("a:2", shared);
    expect(Buffer.from(await blob.readAt({ start: 2, end: 4 })).toString()).toBe("23");
    await first[Symbol.asyncDispose]();
    expect(await readAs("a:3", shared)).toBe("0123456789");
    expect(tokens.length).toBe(1);
  });

  test("have a token replaced for all when the registry does not take it any more", async () => {
    await using shared = new SharedRegistries(heldCredential(undefined));
    await readAs("a:1", shared);
    fake.rules.unshift((request) =>
      request.headers["authorization"] === "Bearer t1"
        ? { status: 401, headers: { "www-authenticate": `Bearer realm="${fake.origin}/token",scope="x"` } }
        : undefined,
    );
    expect(await Promise.all([1, 2, 3].map((tag) => readAs(`a:${tag}`, shared)))).toEqual(Array(3).fill("0123456789"));
    expect(tokens.length).toBe(2);
  });
});
