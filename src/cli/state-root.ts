import { homedir } from "node:os";
import { join, resolve } from "node:path";

/**
 * The directory of all state: the flag, else NYDUS_ROOT, else /var/lib/nydus for root and
 * $XDG_DATA_HOME/nydus (~/.local/share/nydus) for others.
 * @returns an absolute path; it need not exist
 */
export function stateRoot(flag: string | undefined, env: Readonly<Record<string, string | undefined>>): string {
  const named = flag ?? env["NYDUS_ROOT"];
  if (named !== undefined && named !== "") return resolve(named);
  if (process.getuid?.() === 0) return "/var/lib/nydus";
  const data = env["XDG_DATA_HOME"];
  return join(data?.startsWith("/") ? data : join(homedir(), ".local", "share"), "nydus");
}
