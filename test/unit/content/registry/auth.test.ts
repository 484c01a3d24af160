import { describe, expect, test } from "bun:test";
import type { Digest } from "../../../../src/base/digest.ts";
import { formatError, type NydusError } from "../../../../src/base/errors.ts";
import { HttpClient } from "../../../../src/content/http/transport.ts";
import type { Credential, CredentialSource } from "../../../../src/content/registry/credential.ts";
import { heldCredential } from "../../../../src/content/registry/credential-files.ts";
import { Registry } from "../../../../src/content/registry/registry.ts";
import {
  type FakeAnswer,
  type FakeRegistry,
  type FakeRequest,
  startFakeRegistry,
  times,
} from "../../../kit/fake-registry.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const USER: Credential = { kind: "password", username: "me", password: "canary:pw" };
const BASIC = `Basic ${btoa("me:canary:pw")}`;
const IDENTITY: Credential = { kind: "identity", token: "canary-identity" };
const BLOB = Buffer.from("0123456789");
const DIGEST = "sha256:84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882" as Digest;

interface Case extends AsyncDisposable {
  readonly fake: FakeRegistry;
  readonly registry: Registry;
  readonly tokenCalls: () => FakeRequest[];
  /** Milliseconds of the fake clock. */
  clock: number;
  /** What the registry takes; the token server gives it. */
  token: string;
  read(): Promise<string>;
}

interface CaseOptions {
  readonly credentials?: CredentialSource;
  /** The WWW-Authenticate headers; `ORIGIN` is the registry's. */
  readonly challenge?: string;
  /** Of the token server. */
  readonly answer?: (request: FakeRequest, made: Case) => FakeAnswer;
}

const CHALLENGE = 'Bearer realm="ORIGIN/token",service="svc",scope="repository:a/b:pull"';
const give = (value: object): FakeAnswer => ({ status: 200, body: JSON.stringify(value) });

async function start(options: CaseOptions = {}): Promise<Case> {
  const fake = await startFakeRegistry();
  fake.blobs.set(DIGEST, BLOB);
  const http = new HttpClient({ backoffMs: 1, env: {} });
  const credentials = options.credentials ?? heldCredential(undefined);
  const access = { http, credentials, now: () => made.clock };
  const registry = new Registry(access, { registry: fake.host, repository: "a/b" });
  const answer = options.answer ?? ((_: FakeRequest, { token }: Case) => give({ token, expires_in: 300 }));
  const challenge = (options.challenge ?? CHALLENGE).replaceAll("ORIGIN", fake.origin);
  fake.rules.push((request) => {
    if (request.path.startsWith("/token")) return answer(request, made);
    const { authorization } = request.headers;
    if (authorization === `Bearer ${made.token}` || authorization === BASIC) return undefined;
    return { status: 401, headers: { "www-authenticate": challenge }, body: '{"errors":[{"code":"UNAUTHORIZED"}]}' };
  });
  const made: Case = {
    fake,
    registry,
    clock: 1_000_000,
    token: "tok-1",
    tokenCalls: () => fake.requests.filter(({ path }) => path.startsWith("/token")),
    read: async () => {
      const { bytes } = await registry.readBlob({ blob: { digest: DIGEST, size: 10 }, range: { start: 2, end: 5 } });
      return Buffer.from(bytes).toString();
    },
    [Symbol.asyncDispose]: async () => {
      await http[Symbol.asyncDispose]();
      await fake[Symbol.asyncDispose]();
    },
  };
  return made;
}

const form = (request: FakeRequest | undefined): object =>
  Object.fromEntries(new URLSearchParams(String(request?.body)));
const query = (request: FakeRequest | undefined): object => {
  const params = new URL(request?.path ?? "", "http://x").searchParams;
  return Object.fromEntries([...params.keys()].map((key) => [key, params.getAll(key).join(" ")]));
};

describe("a registry that wants Basic", () => {
  test("gets user and password, and is asked with them from then on", async () => {
    await using made = await start({ credentials: heldCredential(USER), challenge: 'Basic realm="x"' });
    expect(await made.read()).toBe("234");
    expect(await made.read()).toBe("234");
    expect(made.fake.requests.map(({ headers }) => headers["authorization"])).toEqual([undefined, BASIC, BASIC]);
  });

  test("that refuses them is EACCES in its own words, and they are looked for anew", async () => {
    const found: Credential[] = [{ ...USER, password: "old" } as Credential, USER];
    const credentials = { find: async () => found.shift() };
    await using made = await start({ credentials, challenge: 'Basic realm="x"' });
    const error = await failureOf(made.read());
    expect([error.code, error.message]).toEqual(["EACCES", "Cannot read blob: the server answers 401: UNAUTHORIZED"]);
    expect(await made.read()).toBe("234");
  });

  test.each([
    [undefined, "there are none"],
    [IDENTITY, "there is a token"],
  ])("gets nothing of %p", async (credential, words) => {
    await using made = await start({ credentials: heldCredential(credential), challenge: 'Basic realm="x"' });
    const error = await failureOf(made.read());
    expect(error.code).toBe("EACCES");
    expect(error.message).toContain(words);
    expect(made.fake.requests.length).toBe(1);
  });
});

describe("a token", () => {
  test("is asked for by GET with user and password, service and scope", async () => {
    await using made = await start({ credentials: heldCredential(USER) });
    expect(await made.read()).toBe("234");
    const [call] = made.tokenCalls();
    expect([call?.method, call?.headers["authorization"]]).toEqual(["GET", BASIC]);
    expect(query(call)).toEqual({ service: "svc", scope: "repository:a/b:pull" });
  });

  test.each([401, 405])("is asked for by POST with the password when the GET is answered %p", async (status) => {
    await using made = await start({
      credentials: heldCredential(USER),
      answer: ({ method }) => (method === "GET" ? { status } : give({ access_token: "tok-1" })),
    });
    expect(await made.read()).toBe("234");
    expect(form(made.tokenCalls()[1])).toEqual({
      client_id: "nydus",
      service: "svc",
      scope: "repository:a/b:pull",
      grant_type: "password",
      username: "me",
      password: "canary:pw",
    });
  });

  test("is not asked for by POST by those who have no password", async () => {
    await using made = await start({ answer: () => ({ status: 405 }) });
    await failureOf(made.read());
    expect(made.tokenCalls().length).toBe(1);
  });

  test("is asked for by POST with an identity token", async () => {
    await using made = await start({ credentials: heldCredential(IDENTITY) });
    expect(await made.read()).toBe("234");
    expect(made.tokenCalls().map(({ method }) => method)).toEqual(["POST"]);
    const wanted = { grant_type: "refresh_token", refresh_token: "canary-identity", service: "svc" };
    expect(form(made.tokenCalls()[0])).toMatchObject(wanted);
  });

  test("for the registry itself is used as it is", async () => {
    await using made = await start({ credentials: heldCredential({ kind: "bearer", token: "tok-1" }) });
    expect(await made.read()).toBe("234");
    expect(made.tokenCalls()).toEqual([]);
  });

  test.each<[string, string, object]>([
    ["no scope", 'Bearer realm="ORIGIN/token",service="svc"', { service: "svc" }],
    ["an empty scope", 'Bearer realm="ORIGIN/token",service="svc",scope=""', { service: "svc" }],
    ["no service", 'Bearer realm="ORIGIN/token",scope="s:t:u"', { scope: "s:t:u" }],
    ["two scopes", 'Bearer realm="ORIGIN/token",scope="a:b:pull c:d:pull"', { scope: "a:b:pull c:d:pull" }],
    ["a realm with a query", 'Bearer realm="ORIGIN/token?x=y&scope=z",scope="a:b:c"', { x: "y", scope: "a:b:c" }],
    [
      "Basic and Bearer in one header",
      'Basic realm="r", Bearer realm="ORIGIN/token",scope="a:b:c"',
      { scope: "a:b:c" },
    ],
  ])("is asked for as a challenge with %s says", async (_what, challenge, expected) => {
    await using made = await start({ challenge });
    expect(await made.read()).toBe("234");
    expect(query(made.tokenCalls()[0])).toEqual(expected);
  });

  test("is found in the second of two WWW-Authenticate headers", async () => {
    await using made = await start({ challenge: `Negotiate\r\nwww-authenticate: ${CHALLENGE}` });
    expect(await made.read()).toBe("234");
  });

  test("is asked for once for many that are refused at once, and once when they are refused later", async () => {
    await using made = await start({ credentials: heldCredential(USER) });
    expect(new Set(await Promise.all(Array.from({ length: 20 }, () => made.read())))).toEqual(new Set(["234"]));
    expect(made.tokenCalls().length).toBe(1);
    made.token = "tok-2";
    await Promise.all(Array.from({ length: 20 }, () => made.read()));
    expect(made.tokenCalls().length).toBe(2);
  });

  test("that one gives up waiting for comes for the others", async () => {
    await using made = await start();
    const controller = new AbortController();
    const blob = { digest: DIGEST, size: 10 };
    const first = failureOf(made.registry.readBlob({ blob, range: { start: 0, end: 1 }, signal: controller.signal }));
    const second = made.read();
    made.fake.rules.unshift(
      times(1, ({ path }) => {
        if (path.startsWith("/token")) controller.abort();
        return undefined;
      }),
      ({ path }) => {
        if (path.startsWith("/token")) controller.abort();
        return undefined;
      },
    );
    expect((await first).code).toBe("ECANCELED");
    expect(await second).toBe("234");
  });

  test.each<[string, object, number, number]>([
    ["expires_in 300", { expires_in: 300 }, 279_999, 280_000],
    ["no expires_in", {}, 44_999, 45_000],
    ["expires_in 0", { expires_in: 0 }, 44_999, 45_000],
    ["expires_in 8", { expires_in: 8 }, 5_999, 6_000],
    ["expires_in as text", { expires_in: "300" }, 279_999, 280_000],
  ])("with %s is replaced in time, and not before", async (_what, more, stillMs, replacedMs) => {
    await using made = await start({ answer: (_, { token }) => give({ token, ...more }) });
    const begin = made.clock;
    await made.read();
    made.clock = begin + stillMs;
    await made.read();
    expect(made.tokenCalls().length).toBe(1);
    made.clock = begin + replacedMs;
    made.token = "tok-2";
    const before = made.fake.requests.length;
    await Promise.all([made.read(), made.read()]);
    expect(made.tokenCalls().length).toBe(2);
    // The registry never saw the old one.
    expect(
      made.fake.requests.slice(before).filter(({ headers }) => headers["authorization"] === "Bearer tok-1"),
    ).toEqual([]);
  });

  test("that cannot be replaced yet is used until its end", async () => {
    let isDown = false;
    await using made = await start({
      answer: (_, { token }) => (isDown ? { status: 403 } : give({ token, expires_in: 300 })),
    });
    const begin = made.clock;
    await made.read();
    isDown = true;
    made.clock = begin + 290_000;
    expect(await made.read()).toBe("234");
    made.clock = begin + 300_000;
    expect((await failureOf(made.read())).code).toBe("EACCES");
  });

  test("for a push is another one than for a pull, with the scope that a push needs", async () => {
    await using made = await start({ credentials: heldCredential(USER) });
    await made.read();
    await made.registry.putManifest("t", { mediaType: "x/y", digest: DIGEST, size: 10 }, BLOB);
    await made.registry.putManifest("u", { mediaType: "x/y", digest: DIGEST, size: 10 }, BLOB);
    await made.read();
    expect(made.tokenCalls().map((call) => query(call))).toEqual([
      { service: "svc", scope: "repository:a/b:pull" },
      { service: "svc", scope: "repository:a/b:pull repository:a/b:pull,push" },
    ]);
  });

  test("that the registry refuses is EACCES after two requests", async () => {
    await using made = await start({ answer: () => give({ token: "other" }) });
    const error = await failureOf(made.read());
    expect([error.code, error.message]).toEqual(["EACCES", "Cannot read blob: the server answers 401: UNAUTHORIZED"]);
    expect(made.fake.requests.length).toBe(3);
  });

  test.each([
    ["GET", 403, "DENIED: no such user"],
    ["POST", 400, "DENIED: no such user"],
  ])("that the token server refuses by %s is an error in its words", async (method, status, words) => {
    const body = '{"errors":[{"code":"DENIED","message":"no such user"}]}';
    const credentials = heldCredential(method === "GET" ? USER : IDENTITY);
    await using made = await start({ credentials, answer: () => ({ status, body }) });
    expect((await failureOf(made.read())).message).toBe(`Cannot get a token: the server answers ${status}: ${words}`);
  });

  test("refused by GET at a server without POST is told in the GET's words", async () => {
    const body = '{"errors":[{"code":"UNAUTHORIZED","message":"bad password"}]}';
    await using made = await start({
      credentials: heldCredential(USER),
      answer: ({ method }) => (method === "GET" ? { status: 401, body } : { status: 404 }),
    });
    const error = await failureOf(made.read());
    expect([error.code, error.message]).toEqual([
      "EACCES",
      "Cannot get a token: the server answers 401: UNAUTHORIZED: bad password",
    ]);
  });
});

test("a 403 is EACCES in the registry's words, without another try", async () => {
  await using made = await start();
  made.fake.rules.unshift(() => ({ status: 403, body: '{"errors":[{"code":"DENIED","message":"not yours"}]}' }));
  const error = await failureOf(made.read());
  expect([error.code, error.message]).toEqual([
    "EACCES",
    "Cannot read blob: the server answers 403: DENIED: not yours",
  ]);
  expect(made.fake.requests.length).toBe(1);
});

test.each(["before", "after"])(
  "a 401 from behind a redirect to another host is not answered, %s a token",
  async (when) => {
    await using other = await startFakeRegistry();
    await using made = await start({ credentials: heldCredential(USER) });
    if (when === "after") await made.read();
    const before = made.fake.requests.length;
    const challenge = `Bearer realm="${other.origin}/token",service="s", Basic realm="x"`;
    other.rules.push(() => ({ status: 401, headers: { "www-authenticate": challenge } }));
    made.fake.rules.unshift(() => ({ status: 307, headers: { location: `${other.origin}/blob` } }));
    expect((await failureOf(made.read())).code).toBe("EACCES");
    expect(other.requests.map(({ path, headers }) => [path, headers["authorization"]])).toEqual([["/blob", undefined]]);
    expect(made.fake.requests.length).toBe(before + 1);
  },
);

/** All that is shown of an error, to users and to those who debug. */
function shown(error: NydusError): string {
  const causes: string[] = [];
  for (let one: unknown = error; one instanceof Error; one = one.cause) causes.push(`${one.message}\n${one.stack}`);
  return `${formatError(error)}\n${JSON.stringify(error.at)}\n${causes.join("\n")}`;
}

describe("no canary is in the error, whoever repeats it, when", () => {
  const echo = (request: FakeRequest): string => {
    const message = `${request.headers["authorization"]} ${atob((request.headers["authorization"] ?? "").replace("Basic ", ""))} ${request.body} http://u:canary@x/?canary`;
    return JSON.stringify({ errors: [{ code: "ECHO", message }] });
  };
  const echoSafely = (request: FakeRequest): string => {
    try {
      return echo(request);
    } catch {
      return JSON.stringify({ errors: [{ message: `${request.headers["authorization"]} ${request.body}` }] });
    }
  };
  test.each<[string, Credential, (request: FakeRequest) => FakeAnswer]>([
    ["the token server refuses a password", USER, (request) => ({ status: 403, body: echoSafely(request) })],
    ["the token server refuses GET and POST", USER, (request) => ({ status: 401, body: echoSafely(request) })],
    ["the token server refuses an identity token", IDENTITY, (request) => ({ status: 400, body: echoSafely(request) })],
    ["the token server gives no JSON", USER, (request) => ({ status: 200, body: `canary ${echoSafely(request)}` })],
    ["the token is an object", USER, () => give({ token: { a: "canary" } })],
    ["the token would split the header", USER, () => give({ token: "canary\r\nx: canary" })],
    ["the token server redirects", USER, () => ({ status: 302, headers: { location: "http://u:canary@x/?canary" } })],
    ["the token server breaks off", IDENTITY, () => ({ status: 200, body: "canary", cutAt: 2, end: "reset" })],
    ["the registry refuses the token", USER, () => give({ token: "canary-token" })],
  ])("%s", async (_what, credential, answer) => {
    await using made = await start({ credentials: heldCredential(credential), answer });
    made.fake.rules.push((request) => ({ status: 400, body: echoSafely(request) }));
    made.fake.rules.unshift((request) =>
      request.headers["authorization"] === "Bearer canary-token"
        ? { status: 400, body: echoSafely(request) }
        : undefined,
    );
    const error = await failureOf(made.read());
    expect(shown(error)).not.toContain("canary");
    expect(shown(error)).not.toContain(btoa("me:canary:pw"));
  });

  test("the registry is sent Basic and repeats it, or breaks off", async () => {
    for (const answer of [
      { status: 400 },
      { status: 403 },
      { status: 404 },
      { status: 206, cutAt: 0, end: "reset" as const },
    ]) {
      await using made = await start({ credentials: heldCredential(USER), challenge: 'Basic realm="canary"' });
      made.fake.rules.unshift((request) =>
        request.headers["authorization"] === undefined ? undefined : { body: echoSafely(request), ...answer },
      );
      expect(shown(await failureOf(made.read()))).not.toContain("canary");
    }
  });
});
