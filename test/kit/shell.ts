/** What a command printed and how it ended. */
export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

/** Runs a command without blocking this thread: it may wait for a mount that this very process serves. */
export async function run(...command: string[]): Promise<CommandResult> {
  const child = Bun.spawn(command, {
    env: process.env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { stdout, stderr, status: await child.exited };
}

/** Standard output of a shell script that must succeed. */
export async function shell(script: string): Promise<string> {
  const { stdout, stderr, status } = await run("bash", "-c", script);
  if (status !== 0) throw new Error(`${script}: status ${status}: ${stderr}`);
  return stdout;
}
