/** Put in place by scripts/build.ts; absent when the sources run by themselves. */
declare const NYDUS_VERSION: string | undefined;
declare const NYDUS_COMMIT: string | undefined;

/** Version of this program: `0.1.0`. */
export function programVersion(): string {
  return typeof NYDUS_VERSION === "string" ? NYDUS_VERSION : "0.0.0-source";
}

/** Commit that this program was built from: `abc1234`. */
export function programCommit(): string {
  return typeof NYDUS_COMMIT === "string" ? NYDUS_COMMIT : "unknown";
}

/** What `nydus --version` prints, without line end: `nydus version 0.1.0, commit abc1234`. */
export function versionLine(): string {
  return `nydus version ${programVersion()}, commit ${programCommit()}`;
}
