import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A certificate authority that nobody trusts, and a server's certificate by it. */
export interface TestCa extends Disposable {
  /** Its own certificate, PEM. */
  readonly caFile: string;
  readonly key: string;
  readonly cert: string;
}

/** Whether there is an openssl to make one with. */
export const hasOpenssl = spawnSync("openssl", ["version"]).status === 0;

/** @param names of the server: `DNS:reg.test,IP:127.0.0.1` */
export function makeTestCa(names: string): TestCa {
  const dir = mkdtempSync(join(tmpdir(), "nydus-ca-"));
  const openssl = (line: string, ...more: string[]): void => {
    const done = spawnSync("openssl", [...line.split(" "), ...more], { cwd: dir });
    if (done.status !== 0) throw new Error(done.stderr.toString());
  };
  openssl("ecparam -name prime256v1 -genkey -noout -out ca.key");
  openssl("req -x509 -new -key ca.key -days 3650 -out ca.pem -subj /CN=test -addext basicConstraints=critical,CA:TRUE");
  openssl("ecparam -name prime256v1 -genkey -noout -out server.key");
  openssl("req -new -key server.key -subj /CN=server -out server.csr");
  writeFileSync(join(dir, "names"), `subjectAltName=${names}\n`);
  openssl(
    "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile names -out server.pem",
  );
  const read = (name: string): string => readFileSync(join(dir, name), "utf8");
  return {
    caFile: join(dir, "ca.pem"),
    key: read("server.key"),
    cert: read("server.pem"),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}
