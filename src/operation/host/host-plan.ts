import { rm } from "node:fs/promises";
import { inPlace } from "../../base/errors.ts";
import { Closers } from "../../content/store/closers.ts";
import { type FileChange, StagedChange } from "./place-file.ts";
import { unifiedDiff } from "./unified-diff.ts";

/** A file that is to change, and who looks at its new content before it is put in place. */
export interface PlannedChange extends FileChange {
  /** @param path of the new content, in the directory of the file @throws NydusError it will not do */
  readonly check?: (path: string) => Promise<void>;
}

/** What is to change on this machine. */
export interface HostPlan {
  /** In the order in which they are made; none when everything is as it should be. */
  readonly changes: readonly PlannedChange[];
  /** Symlinks that go with them. */
  readonly links?: readonly string[];
  /** What a person should know, a sentence each. */
  readonly notes: readonly string[];
}

/** A change that was made. */
export interface AppliedChange {
  readonly path: string;
  readonly action: "created" | "changed" | "removed";
  /** Where the old file is kept. */
  readonly backup: string | undefined;
}

/** What a change is to do. */
export function actionOf({ before, after }: FileChange): AppliedChange["action"] {
  if (after === undefined) return "removed";
  return before === undefined ? "created" : "changed";
}

/** The changes of a plan as `diff -u` shows them. */
export function diffOf({ changes }: HostPlan): string {
  return changes.map(({ path, before, after }) => unifiedDiff(path, before, after)).join("");
}

/**
 * Makes the changes of a plan: first all are written beside their places and checked, then each is put in place.
 * @param now for names of backups
 * @throws what checks throw; EBUSY a file was changed since the plan; EPERM, ENOENT, ENOSPC, EIO
 */
export async function applyPlan({ changes, links = [] }: HostPlan, now: Date): Promise<AppliedChange[]> {
  await using stack = new Closers();
  const staged: StagedChange[] = [];
  for (const change of changes) {
    const one = stack.use(await StagedChange.write(change));
    staged.push(one);
    const path = one.stagedPath;
    if (path !== undefined) await inPlace({ path: change.path }, async () => await change.check?.(path));
  }
  const applied: AppliedChange[] = [];
  for (const one of staged) {
    const backup = await one.place(now);
    applied.push({ path: one.change.path, action: actionOf(one.change), backup });
  }
  for (const link of links) await rm(link, { force: true });
  return applied;
}
