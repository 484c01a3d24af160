import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import type { Labels } from "../../format/containerd/labels.ts";
import {
  type ContainerdMount,
  encodeMount,
  encodeTimestamp,
  SNAPSHOTS_SERVICE,
} from "../../format/containerd/snapshots-schema.ts";
import type { CallContext, Handler, Message, ServedService } from "../../os/grpc.ts";
import type { Snapshot, SnapshotKind } from "./snapshot.ts";
import type { CreateRequest, Snapshotter } from "./snapshotter.ts";

/** `Kind` of the schema. */
const KIND_NUMBERS: Readonly<Record<SnapshotKind, number>> = { view: 1, active: 2, committed: 3 };
/** Snapshots that one message of a list holds, as containerd has it. */
const LIST_MESSAGE_ITEMS = 100;

/** The snapshots API, answered by a snapshotter; the name of the snapshotter in a request is the client's affair. */
export function snapshotsService(snapshotter: Snapshotter): ServedService {
  const handlers: Readonly<Record<keyof typeof SNAPSHOTS_SERVICE.methods, Handler>> = {
    Prepare: async (request, { signal }) => await answerMounts(snapshotter.prepare(createRequest(request), signal)),
    View: async (request, { signal }) => await answerMounts(snapshotter.view(createRequest(request), signal)),
    Mounts: async ({ key }, { signal }) => await answerMounts(snapshotter.mounts(key, signal)),
    Commit: async ({ key, name, parent, labels }) => {
      await snapshotter.commit({ key, name, parent, labels: labelsOf(labels) });
      return {};
    },
    Remove: async ({ key }) => {
      await snapshotter.remove(key);
      return {};
    },
    Stat: async ({ key }) => ({ info: infoMessage(snapshotter.stat(key)) }),
    Update: async ({ info, updateMask }) => {
      if (info === null || info === undefined) throw new NydusError("EINVAL", "Cannot update: no snapshot is named");
      const paths = updateMask?.paths ?? [];
      return { info: infoMessage(snapshotter.update(info.name, labelsOf(info.labels), paths)) };
    },
    List: ({ filters }, context) => listMessages(snapshotter, filters, context),
    Usage: async ({ key }) => {
      const { sizeBytes, inodes } = await snapshotter.usage(key);
      return { size: sizeBytes, inodes };
    },
    Cleanup: async () => {
      await snapshotter.cleanup();
      return {};
    },
  };
  return { service: SNAPSHOTS_SERVICE, handlers };
}

async function* listMessages(
  snapshotter: Snapshotter,
  filters: readonly string[],
  { signal }: CallContext,
): AsyncGenerator<Message> {
  const found = snapshotter.list(filters);
  for (let at = 0; at < found.length && !signal.aborted; at += LIST_MESSAGE_ITEMS) {
    yield { info: found.slice(at, at + LIST_MESSAGE_ITEMS).map(infoMessage) };
  }
}

function createRequest({ key, parent, labels }: Message): CreateRequest {
  return { key, parent, labels: labelsOf(labels) };
}

function labelsOf(labels: Readonly<Record<string, string>> | undefined): Labels {
  return new Map(Object.entries(labels ?? {}));
}

/** @throws what `found` throws, with the place in its message: over there nothing else says which image is broken */
async function answerMounts(found: Promise<readonly ContainerdMount[]>): Promise<Message> {
  try {
    return { mounts: (await found).map(encodeMount) };
  } catch (error) {
    const failure = asNydusError(error);
    throw new NydusError(failure.code, formatError(failure), failure.at, { cause: failure });
  }
}

function infoMessage({ key, parent, kind, labels, createdMicros, updatedMicros }: Snapshot): Message {
  return {
    name: key,
    parent,
    kind: KIND_NUMBERS[kind],
    createdAt: encodeTimestamp(createdMicros),
    updatedAt: encodeTimestamp(updatedMicros),
    labels: Object.fromEntries(labels),
  };
}
