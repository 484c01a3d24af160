import { ERROR_CODES, formatError, type NydusError } from "../../base/errors.ts";
import type { ContainerdPlace } from "../../content/containerd/place.ts";
import { openImageSource, type PullPolicy } from "../../content/local/open-image-source.ts";
import type { RegistryOptions } from "../../content/registry/registry-options.ts";
import { type CheckReport, checkImage } from "../../operation/image/check.ts";
import { compareWithSource, type Difference } from "../../operation/image/compare.ts";
import { readManifestOf } from "../../operation/image/read-manifest.ts";
import { readSourceTree } from "../../operation/image/source-tree.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS, containerdPlace } from "../containerd-args.ts";
import { bothUsages, chooseImage, IMAGE_ARGS, type ImageSession, pullOf, withImage } from "../image-args.ts";
import { printJson, printText } from "../output.ts";
import { formatBytes } from "../progress.ts";
import { registryOptions } from "../registry-args.ts";
import { platformOf } from "../values.ts";

/** Differences that are kept and printed; two images that have nothing in common differ in every path. */
const DIFFERENCE_LIMIT = 1000;

/** What `--against` is looked for with. */
interface Wanted {
  readonly platform: string | undefined;
  readonly pull: PullPolicy;
  readonly registry: RegistryOptions;
  readonly containerd: ContainerdPlace;
}

async function compare(
  { image, pool }: ImageSession,
  against: string,
  { platform, pull, registry, containerd }: Wanted,
  { root, signal }: CliContext,
): Promise<readonly Difference[]> {
  const codecs = await loadCodecs();
  await using source = await openImageSource(against, { root, signal, registry, containerd }, pull);
  const { manifest } = await readManifestOf(source, platformOf(platform));
  const tree = await readSourceTree(source, manifest.layers, { codecs, signal });
  const differences: Difference[] = [];
  for await (const difference of compareWithSource(image, tree, { pool, signal, sha256: () => codecs.sha256() })) {
    if (differences.push(difference) >= DIFFERENCE_LIMIT) break;
  }
  return differences;
}

function formatReport(report: CheckReport, differences: readonly Difference[] | undefined): string {
  const problems = report.problems.map((problem) => `${formatError(problem)}\n`);
  const rows = (differences ?? []).map(
    ({ path, what, image, source }) => `${path}: ${what} is ${image || "empty"}, the source has ${source || "empty"}\n`,
  );
  const counts = `${report.inodes} inodes, ${report.chunks} chunks, ${formatBytes(report.chunkBytes)} in ${report.blobs} blobs`;
  const compared = differences === undefined ? "" : `; ${differences.length} differences from the source`;
  return `${problems.join("")}${rows.join("")}${counts}: ${report.problems.length} problems${compared}\n`;
}

/** `nydus check` */
export const checkCommand = nydusCommand({
  description: `Check every structure and every chunk of an image

Checks the bootstrap's structures, the digest of every referenced chunk and of every blob; with --against also that
the image shows what the layers of another image show, path by path. The exit status is 0 only when all is right.`,
  usage: bothUsages(""),
  args: {
    image: { type: "positional", required: false, description: "Nydus image" },
    ...IMAGE_ARGS,
    ...CONTAINERD_ARGS,
    against: { type: "string", valueHint: "SOURCE", description: "Image that it was converted from" },
  },
  async run(args, context) {
    const { image: choice } = chooseImage(args, [args.image]);
    return withImage(choice, args, context, async (session) => {
      const codecs = await loadCodecs();
      const { pool, image } = session;
      const report = await checkImage(image, { pool, signal: context.signal, sha256: () => codecs.sha256() });
      const { against } = args;
      const places = { registry: registryOptions(args), containerd: containerdPlace(args) };
      const wanted = { platform: args.platform, pull: pullOf(args.pull), ...places };
      const damaged = report.problems.length > 0;
      const differences =
        against === undefined || damaged ? undefined : await compare(session, against, wanted, context);
      if (context.json) await printJson({ ...report, problems: report.problems.map(problemJson), differences });
      else await printText(formatReport(report, differences));
      if (report.problems[0] !== undefined) return ERROR_CODES[report.problems[0].code].exit;
      return differences !== undefined && differences.length > 0 ? ERROR_CODES.EBADMSG.exit : 0;
    });
  },
});

function problemJson({ code, message, at }: NydusError): object {
  return { code, message, at };
}
