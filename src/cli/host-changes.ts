import { actionOf, applyPlan, diffOf, type HostPlan } from "../operation/host/host-plan.ts";
import { unifiedDiff } from "../operation/host/unified-diff.ts";
import type { CliContext } from "./command.ts";
import { printJson, printStderr, printText } from "./output.ts";

/** What is done with a plan, and said about it. */
export interface HostChangeOptions extends Pick<CliContext, "json" | "quiet"> {
  readonly dryRun: boolean;
  /** Command line that has to be run afterwards. */
  readonly next: string;
}

/** Makes the changes of a plan, or only shows them. @throws as `applyPlan` */
export async function carryOut(plan: HostPlan, options: HostChangeOptions): Promise<void> {
  if (!options.quiet) printStderr(plan.notes.map((note) => `nydus: note: ${note}\n`).join(""));
  if (options.dryRun) await show(plan, options);
  else await make(plan, options);
}

async function show(plan: HostPlan, { json, next }: HostChangeOptions): Promise<void> {
  if (!json) return await printText(diffOf(plan));
  const changes = plan.changes.map((change) => ({
    path: change.path,
    action: actionOf(change),
    diff: unifiedDiff(change.path, change.before, change.after),
  }));
  await printJson({ changes, notes: plan.notes, next: changes.length > 0 ? next : "" });
}

async function make(plan: HostPlan, { json, quiet, next }: HostChangeOptions): Promise<void> {
  const applied = await applyPlan(plan, new Date());
  if (json) return await printJson({ changes: applied, notes: plan.notes, next: applied.length > 0 ? next : "" });
  if (applied.length === 0) return await printText(quiet ? "" : "Nothing to do\n");
  if (quiet) return await printText(`${next}\n`);
  const lines = applied.map(({ path, action, backup }) => {
    const kept = backup === undefined ? "" : `; as it was: ${backup}`;
    return `${action} ${path}${kept}\n`;
  });
  await printText(`${lines.join("")}Now run: ${next}\n`);
}
