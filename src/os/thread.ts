import { isMainThread, type MessagePort, parentPort, type Transferable, Worker, workerData } from "node:worker_threads";

interface ThreadStart {
  readonly nydusRole: string;
  readonly data: unknown;
}

/** A worker thread of this program; `close` ends it. */
export interface Thread {
  readonly worker: Worker;
  post(message: unknown, transfer?: readonly Transferable[]): void;
  close(): Promise<void>;
}

/**
 * Starts a worker thread.
 * @param moduleUrl `import.meta.url` of the module that calls {@link serveThread} for this role; in a bundle that is
 *   the bundle itself, whose `main.ts` dispatches on {@link threadRole}
 * @param role name of the thread's work
 * @param data structured-cloned to the thread
 * @param transfer what in `data` is handed over
 */
export function spawnThread(
  moduleUrl: string,
  role: string,
  data: unknown,
  transfer: readonly Transferable[] = [],
): Thread {
  const start: ThreadStart = { nydusRole: role, data };
  const worker = new Worker(new URL(moduleUrl), { workerData: start, transferList: transfer as Transferable[] });
  return {
    worker,
    post: (message, transfer = []) => worker.postMessage(message, transfer as Transferable[]),
    close: async () => {
      await worker.terminate();
    },
  };
}

/** The role that this thread was started for, or undefined in the main thread. */
export function threadRole(): string | undefined {
  return isMainThread ? undefined : (workerData as ThreadStart | null)?.nydusRole;
}

/** In a thread that was started for `role`, runs its work; anywhere else does nothing. */
export function serveThread(role: string, run: (data: unknown, port: MessagePort) => void): void {
  if (threadRole() === role && parentPort !== null) run((workerData as ThreadStart).data, parentPort);
}
