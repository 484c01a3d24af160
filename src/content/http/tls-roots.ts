import { readFileSync } from "node:fs";
import { createSecureContext, rootCertificates, type SecureContext } from "node:tls";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { Env } from "./proxy.ts";

/** Where systems keep the certificates that they trust, in one file. */
const SYSTEM_BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine
  "/etc/pki/tls/certs/ca-bundle.crt", // Fedora, RHEL
  "/etc/ssl/ca-bundle.pem", // openSUSE
  "/etc/ssl/cert.pem", // macOS, Alpine
];

/**
 * What servers' certificates must descend from: what the system trusts (where it says nothing, what this program's runtime
 * brings), and besides it the certificates of SSL_CERT_FILE and of `caFile`.
 * @param caFile PEM
 * @throws ENOENT, EPERM, EIO a named file that cannot be read; EUCLEAN one without a certificate
 */
export function trustedRoots(env: Env, caFile: string | undefined): SecureContext {
  const named = [env["SSL_CERT_FILE"], caFile].filter((path) => path !== undefined && path !== "");
  const ca = [...systemRoots(), ...named.map((path) => readRoots(path as string))];
  try {
    return createSecureContext({ ca });
  } catch (cause) {
    const found = named.map((path) => JSON.stringify(path)).join(", ");
    throw new NydusError("EUCLEAN", `Cannot read CA certificates: ${found} is not right`, {}, { cause });
  }
}

function systemRoots(): readonly string[] {
  for (const path of SYSTEM_BUNDLES) {
    try {
      return [readFileSync(path, "utf8")];
    } catch {
      // another system's place
    }
  }
  return rootCertificates;
}

function readRoots(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw asNydusError(error, { path });
  }
  if (/-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----/.test(text)) return text;
  throw new NydusError("EUCLEAN", "Cannot read CA certificates: there is none in PEM", { path });
}
