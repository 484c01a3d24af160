import { createHash } from "node:crypto";

/** What a layer or a config says besides: names and values that are meant to be taken for something else. */
export interface HostileText {
  /** Annotations of every layer. */
  readonly annotations: Readonly<Record<string, string>>;
  /** Labels of the image's config. */
  readonly labels: Readonly<Record<string, string>>;
}

interface Descriptor {
  digest: string;
  size: number;
  annotations?: Record<string, string>;
}

interface Manifest {
  mediaType?: string;
  config: Descriptor;
  layers: Descriptor[];
}

/**
 * Puts a changed copy of an image beside it, with annotations and labels that an attacker would choose.
 * @param source reference of an image in a registry on this machine, with a tag
 * @returns the copy's reference, of the tag `tag`
 */
export async function pushHostile(source: string, tag: string, text: HostileText): Promise<string> {
  const [, host = "", name = "", sourceTag = ""] = /^([^/]+)\/(.+):([^:]+)$/.exec(source) ?? [];
  const base = `http://${host}/v2/${name}`;
  const accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
  const got = await answered(fetch(`${base}/manifests/${sourceTag}`, { headers: { accept } }));
  const type = got.headers.get("content-type") ?? "";
  const manifest = (await got.json()) as Manifest;
  const config = (await (await answered(fetch(`${base}/blobs/${manifest.config.digest}`))).json()) as {
    config?: { Labels?: Record<string, string> };
  };
  config.config = { ...config.config, Labels: { ...config.config?.Labels, ...text.labels } };
  const bytes = Buffer.from(JSON.stringify(config));
  manifest.config.digest = await upload(base, bytes);
  manifest.config.size = bytes.length;
  for (const layer of manifest.layers) layer.annotations = { ...layer.annotations, ...text.annotations };
  const body = JSON.stringify(manifest);
  await answered(fetch(`${base}/manifests/${tag}`, { method: "PUT", body, headers: { "content-type": type } }));
  return `${host}/${name}:${tag}`;
}

/** @returns digest */
async function upload(base: string, bytes: Buffer): Promise<string> {
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  const { headers } = await answered(fetch(`${base}/blobs/uploads/`, { method: "POST" }));
  const place = new URL(headers.get("location") ?? "", base);
  place.searchParams.set("digest", digest);
  await answered(fetch(place, { method: "PUT", body: bytes, headers: { "content-type": "application/octet-stream" } }));
  return digest;
}

async function answered(request: Promise<Response>): Promise<Response> {
  const response = await request;
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
  return response;
}
