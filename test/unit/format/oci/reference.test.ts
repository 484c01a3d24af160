import { describe, expect, test } from "bun:test";
import type { NydusError } from "../../../../src/base/errors.ts";
import {
  apiHost,
  familiarRepository,
  formatReference,
  isLoopback,
  manifestKey,
  parseReference,
} from "../../../../src/format/oci/reference.ts";
import { formatImageName, parseImageName } from "../../../../src/format/oci/transport.ts";

const HEX = "0123456789abcdef".repeat(4);
const DIGEST = `sha256:${HEX}`;

function codeOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    return (error as NydusError).code;
  }
  return "nothing thrown";
}

describe("parseReference()", () => {
  test.each([
    ["debian", "docker.io/library/debian:latest"],
    ["debian:12", "docker.io/library/debian:12"],
    ["user/app", "docker.io/user/app:latest"],
    ["docker.io/debian", "docker.io/library/debian:latest"],
    ["index.docker.io/user/app:v1", "docker.io/user/app:v1"],
    ["localhost/app", "localhost/app:latest"],
    ["localhost:5000/app:1", "localhost:5000/app:1"],
    ["host:5000/a/b/c", "host:5000/a/b/c:latest"],
    ["example.com/app", "example.com/app:latest"],
    ["Registry/app", "Registry/app:latest"],
    ["127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    [`app@${DIGEST}`, `docker.io/library/app@${DIGEST}`],
    [`host.io/app:1@${DIGEST}`, `host.io/app:1@${DIGEST}`],
    ["host.io/a_b/c__d/e-f/g--h/i.j:T_1.x-y", "host.io/a_b/c__d/e-f/g--h/i.j:T_1.x-y"],
    ["localhost", "docker.io/library/localhost:latest"],
    ["docker:dind", "docker.io/library/docker:dind"],
    ["registry:2", "docker.io/library/registry:2"],
  ])("%s is %s, which is itself", (text, full) => {
    expect(formatReference(parseReference(text))).toBe(full);
    expect(formatReference(parseReference(full))).toBe(full);
  });

  test.each([
    "",
    ":tag",
    "/app",
    "host.io/",
    "host.io//app",
    "App",
    "user/App",
    "a..b",
    "a___b",
    "-a",
    "a-",
    "a:b:c",
    "a:",
    `a:${"t".repeat(129)}`,
    "a:-t",
    "a b",
    "a@",
    "a@sha256:abc",
    `a@sha256:${HEX.toUpperCase()}`,
    HEX,
    "http://host/app",
    "[::1/app",
    "host.io:port/app",
    "ho_st.io/app",
    `host.io/${"a".repeat(256)}`,
    "a".repeat(2000),
    "a\n",
    "ä",
  ])("refuses %j", (text) => {
    expect(codeOf(() => parseReference(text))).toBe("EINVAL");
  });

  test("a digest of another algorithm is valid but not supported", () => {
    expect(codeOf(() => parseReference(`a@sha512:${HEX}${HEX}`))).toBe("ENOTSUP");
  });

  test("the digest is what a registry is asked for, else the tag", () => {
    expect(manifestKey(parseReference(`a:1@${DIGEST}`))).toBe(DIGEST);
    expect(manifestKey(parseReference("a:1"))).toBe("1");
  });
});

test.each([
  ["localhost", true],
  ["localhost:5000", true],
  ["a.localhost", true],
  ["127.0.0.1:5000", true],
  ["127.9.9.9", true],
  ["[::1]:5000", true],
  ["[0:0:0:0:0:0:0:1]", true],
  ["127.0.0.1.example.com", false],
  ["127.0.0.256", false],
  ["localhost.example.com", false],
  ["10.0.0.1:5000", false],
  ["[::2]", false],
  ["[fe80::1]", false],
])("isLoopback(%j) is %p", (registry, wanted) => {
  expect(isLoopback(registry)).toBe(wanted);
});

test("Docker Hub's API is at another host than its names", () => {
  expect([apiHost("docker.io"), apiHost("quay.io")]).toEqual(["registry-1.docker.io", "quay.io"]);
});

describe("parseImageName()", () => {
  test.each([
    ["oci:/dir", { transport: "oci", path: "/dir" }],
    ["oci:dir:", { transport: "oci", path: "dir" }],
    ["oci:/dir:name", { transport: "oci", path: "/dir", reference: "name" }],
    ["oci:/dir:host:5000/app:1", { transport: "oci", path: "/dir", reference: "host:5000/app:1" }],
    ["oci:/dir:@3", { transport: "oci", path: "/dir", index: 3 }],
    ["oci-archive:a.tar:v1", { transport: "oci-archive", path: "a.tar", reference: "v1" }],
    ["docker-archive:a.tar", { transport: "docker-archive", path: "a.tar" }],
    ["docker-archive:a.tar:@0", { transport: "docker-archive", path: "a.tar", index: 0 }],
    [
      "docker-archive:a.tar:app",
      {
        transport: "docker-archive",
        path: "a.tar",
        reference: { registry: "docker.io", repository: "library/app", tag: "latest" },
      },
    ],
    ["docker://h.io/a", { transport: "docker", reference: { registry: "h.io", repository: "a", tag: "latest" } }],
    ["registry://h.io/a", { transport: "docker", reference: { registry: "h.io", repository: "a", tag: "latest" } }],
    ["h.io/a:1", { transport: "docker", reference: { registry: "h.io", repository: "a", tag: "1" } }],
    [
      "docker:27",
      { transport: "docker", reference: { registry: "docker.io", repository: "library/docker", tag: "27" } },
    ],
  ] as const)("%s", (text, wanted) => {
    const name = parseImageName(text);
    expect(name).toEqual(wanted);
    expect(parseImageName(formatImageName(name))).toEqual(name);
  });

  test.each([
    ["containerd:", "EINVAL"],
    ["containerd:a b", "EINVAL"],
    ["containerd:a\n", "EINVAL"],
    [`containerd:${"a".repeat(1025)}`, "EINVAL"],
    ["containers-storage:a", "ENOTSUP"],
    ["docker-daemon:a:1", "ENOTSUP"],
    ["dir:/a", "ENOTSUP"],
    ["oci:", "EINVAL"],
    ["oci::name", "EINVAL"],
    ["oci:/dir:a b", "EINVAL"],
    ["oci:/dir:@x", "EINVAL"],
    ["docker-archive:a.tar:b/C", "EINVAL"],
    [`docker-archive:a.tar:a@${DIGEST}`, "EINVAL"],
    ["docker://", "EINVAL"],
    ["", "EINVAL"],
  ])("refuses %j with %s", (text, code) => {
    expect(codeOf(() => parseImageName(text))).toBe(code);
  });
});

test.each([
  ["docker.io/library/alpine", "alpine"],
  ["index.docker.io/bitnami/redis:7", "bitnami/redis"],
  ["docker.io/library/team/app", "library/team/app"],
  ["ghcr.io/library/alpine", "ghcr.io/library/alpine"],
  [`localhost:5000/a/b@sha256:${HEX}`, "localhost:5000/a/b"],
])("familiarRepository() shows %s as %s, which docker takes for the same", (text, shown) => {
  const reference = parseReference(text);
  expect(familiarRepository(reference)).toBe(shown);
  const { registry, repository } = parseReference(shown);
  expect([registry, repository]).toEqual([reference.registry, reference.repository]);
});
