/** An address from text that came from outside, or undefined when it is none (URL.parse, for Node 20 too). */
export function parseUrl(text: string | undefined, base?: URL): URL | undefined {
  if (text === undefined || text === "") return undefined;
  try {
    return new URL(text, base?.href);
  } catch {
    return undefined;
  }
}

/** An address as it may be shown: without user info, query and fragment. */
export function shownUrl(url: URL): string {
  return `${url.origin}${url.pathname}`;
}

/** Whether an address names a user: nothing of ours is to be sent there. */
export function hasUserInfo(url: URL): boolean {
  return url.username !== "" || url.password !== "";
}
