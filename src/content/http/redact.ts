/** What stands in the place of a secret. */
const HIDDEN = "…";
/** Shorter ones would blank out text that happens to hold them. */
const MIN_SECRET_CHARS = 4;

/** Text as it may be shown: without the given secrets, authorizations, and user info and queries of addresses. */
export function redact(text: string, secrets: readonly string[]): string {
  const forms = secrets.flatMap((secret) => [secret, encodeURIComponent(secret)]);
  let shown = text;
  for (const secret of forms.filter((form) => form.length >= MIN_SECRET_CHARS)) {
    shown = shown.replaceAll(secret, HIDDEN);
  }
  return shown
    .replace(/\b(bearer|basic)(\s+)[\w+/=.~-]{8,}/gi, `$1$2${HIDDEN}`)
    .replace(/(\bhttps?:\/\/)[^\s/@"'<>]*@/gi, "$1")
    .replace(/(\bhttps?:\/\/[^\s?"'<>]*)\?[^\s"'<>]*/gi, `$1?${HIDDEN}`);
}

/** What of a request's headers must not be shown, longest first. */
export function secretsOf(headers: Readonly<Record<string, string>>): string[] {
  const values = Object.entries(headers)
    .filter(([name]) => /^(?:proxy-)?authorization$|^cookie$/i.test(name))
    .map(([, value]) => value);
  return values.flatMap((value) => {
    const [scheme = "", token = ""] = value.split(" ", 2);
    if (scheme.toLowerCase() !== "basic") return [value, token];
    const pair = Buffer.from(token, "base64").toString();
    return [value, token, pair, pair.slice(pair.indexOf(":") + 1)];
  });
}
