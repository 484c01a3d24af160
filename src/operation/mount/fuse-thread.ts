import type { MessagePort } from "node:worker_threads";
import { asNydusError, type ErrorCode, type ErrorPlace } from "../../base/errors.ts";
import { ErofsReader } from "../../format/erofs/reader.ts";
import { readFuseRequest, writeFuseReply } from "../../os/fuse-device.ts";
import { mapFile } from "../../os/mmap.ts";
import { serveThread } from "../../os/thread.ts";
import { type DeviceData, FileData } from "./file-data.ts";
import { FuseServer, type PendingRead, REQUEST_BYTES } from "./fuse-server.ts";
import { ImageFs } from "./image-fs.ts";

/** The name of this thread's work in `main.ts`' table. */
export const FUSE_ROLE = "fuse";

/** Where {@link FUSE_ROLE} is served: this module, or the bundle that holds it. */
export const fuseThreadUrl = import.meta.url;

/** What a FUSE thread is started with. */
export interface FuseThreadData {
  /** Its own clone of the FUSE descriptor; the thread does not close it. */
  readonly fd: number;
  readonly bootstrapPath: string;
  readonly devices: readonly DeviceData[];
}

/** What a FUSE thread tells the main thread. */
export type FuseThreadMessage =
  | { readonly kind: "missing"; readonly read: PendingRead }
  | { readonly kind: "error"; readonly code: ErrorCode; readonly message: string; readonly at: ErrorPlace }
  /** The thread ends: because the file system was unmounted, or because it cannot go on. */
  | { readonly kind: "ended"; readonly failed: boolean };

/** Answers requests until the file system is unmounted. Blocks the thread in between: it receives no messages. */
function serveFuse(data: FuseThreadData, post: (message: FuseThreadMessage) => void): void {
  let failed = false;
  const postError = (error: unknown): void => {
    const { code, message, at } = asNydusError(error);
    post({ kind: "error", code, message, at });
  };
  try {
    using bootstrap = mapFile(data.bootstrapPath);
    const fs = new ImageFs(new ErofsReader(bootstrap.bytes));
    const files = new FileData(fs, data.devices);
    const server = new FuseServer({
      fs,
      readReady: (read, target, at) => files.readReady(read, target, at),
      onMissing: (read) => post({ kind: "missing", read }),
      onError: postError,
    });
    const request = new Uint8Array(REQUEST_BYTES);
    for (;;) {
      const length = readFuseRequest(data.fd, request);
      if (length === 0) break;
      const replyBytes = server.handle(request.subarray(0, length));
      if (replyBytes > 0) writeFuseReply(data.fd, server.reply.subarray(0, replyBytes));
    }
  } catch (error) {
    failed = true;
    postError(error);
  }
  post({ kind: "ended", failed });
}

serveThread(FUSE_ROLE, (data, port: MessagePort) => {
  serveFuse(data as FuseThreadData, (message) => port.postMessage(message));
});
