/** Put in place by scripts/build.ts; absent when the sources run by themselves. */
declare const NYDUS_VERSION: string | undefined;
declare const NYDUS_COMMIT: string | undefined;

/** What `nydus --version` prints, without line end: `nydus version 0.1.0, commit abc1234`. */
export function versionLine(): string {
  const version = typeof NYDUS_VERSION === "string" ? NYDUS_VERSION : "0.0.0-source";
  const commit = typeof NYDUS_COMMIT === "string" ? NYDUS_COMMIT : "unknown";
  return `nydus version ${version}, commit ${commit}`;
}
