/** The JavaScript runtimes that this program runs under. The executable is Bun; the bundles run under the others. */
export type Runtime = "bun" | "node" | "deno";

/** Which runtime this is. */
export function runtime(): Runtime {
  if ("bun" in process.versions) return "bun";
  return "deno" in process.versions ? "deno" : "node";
}
