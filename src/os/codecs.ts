import { NydusError } from "../base/errors.ts";
import type { Codecs } from "../format/codec/codecs.ts";
import { type CompiledCore, loadKernels } from "../format/codec/kernels.ts";
import { makeCodecs } from "../format/codec/make-codecs.ts";
import { nativeCodecs, nativeCompression } from "./native-codecs.ts";

/** Which implementation decodes and digests: the faster one of each operation, or the WASM core in all. */
export type CoreChoice = "auto" | "wasm";

/** How codecs are loaded. */
export interface CodecChoices {
  readonly core?: CoreChoice;
  readonly compiled?: CompiledCore | undefined;
}

/** The environment's choice. @throws EINVAL another word than auto or wasm */
function coreOfEnvironment(): CoreChoice {
  const value = process.env["NYDUS_CORE"] ?? "";
  if (value === "" || value === "auto") return "auto";
  if (value === "wasm") return "wasm";
  throw new NydusError("EINVAL", `Cannot choose codecs: NYDUS_CORE is ${JSON.stringify(value)}, auto or wasm wanted`);
}

/**
 * Loads this thread's codecs; each call makes a new instance of the WASM core.
 * @param options core: NYDUS_CORE of the environment when left out; "wasm" leaves the runtime only what the core has
 *   not, compressing by zstd; compiled: the core compiled before, maybe by another thread
 * @throws EINVAL NYDUS_CORE is another word; EFAULT the core is missing or damaged
 */
export async function loadCodecs(options: CodecChoices = {}): Promise<Codecs> {
  const core = options.core ?? coreOfEnvironment();
  const kernelsLoading = loadKernels(options.compiled);
  const [kernels, native] = await Promise.all([kernelsLoading, core === "wasm" ? nativeCompression() : nativeCodecs()]);
  return makeCodecs(kernels, native);
}
