import type { ProtoField, ProtoMethod, ProtoService, ProtoType } from "./proto.ts";

/** `google.protobuf.Empty` */
export const EMPTY_TYPE: ProtoType = { fields: {} };
/** `google.protobuf.Timestamp` */
export const TIMESTAMP_TYPE: ProtoType = {
  fields: { seconds: { id: 1, type: "int64" }, nanos: { id: 2, type: "int32" } },
};
/** `google.protobuf.FieldMask` */
export const FIELD_MASK_TYPE: ProtoType = { fields: { paths: { id: 1, type: "string", rule: "repeated" } } };
/** `containerd.types.Mount` */
export const MOUNT_TYPE: ProtoType = {
  fields: {
    type: { id: 1, type: "string" },
    source: { id: 2, type: "string" },
    target: { id: 3, type: "string" },
    options: { id: 4, type: "string", rule: "repeated" },
  },
};

const text = (id: number): ProtoField => ({ id, type: "string" });
const textMap = (id: number): ProtoField => ({ id, keyType: "string", type: "string" });
const message = (id: number, type: string): ProtoField => ({ id, type });
const messages = (id: number, type: string): ProtoField => ({ id, type, rule: "repeated" });
/** Every request begins with the name of the snapshotter, which a proxy plugin knows as it likes. */
const request = (fields: Readonly<Record<string, ProtoField>>): ProtoType => ({
  fields: { snapshotter: text(1), ...fields },
});

const CREATE_REQUEST = request({ key: text(2), parent: text(3), labels: textMap(4) });
const KEY_REQUEST = request({ key: text(2) });
const MOUNTS_RESPONSE: ProtoType = { fields: { mounts: messages(1, "Mount") } };
const INFO_RESPONSE: ProtoType = { fields: { info: message(1, "Info") } };

const MESSAGES = {
  Empty: EMPTY_TYPE,
  Timestamp: TIMESTAMP_TYPE,
  FieldMask: FIELD_MASK_TYPE,
  Mount: MOUNT_TYPE,
  Kind: { values: { UNKNOWN: 0, VIEW: 1, ACTIVE: 2, COMMITTED: 3 } },
  Info: {
    fields: {
      name: text(1),
      parent: text(2),
      kind: message(3, "Kind"),
      createdAt: message(4, "Timestamp"),
      updatedAt: message(5, "Timestamp"),
      labels: textMap(6),
    },
  },
  PrepareSnapshotRequest: CREATE_REQUEST,
  PrepareSnapshotResponse: MOUNTS_RESPONSE,
  ViewSnapshotRequest: CREATE_REQUEST,
  ViewSnapshotResponse: MOUNTS_RESPONSE,
  MountsRequest: KEY_REQUEST,
  MountsResponse: MOUNTS_RESPONSE,
  CommitSnapshotRequest: request({ name: text(2), key: text(3), labels: textMap(4), parent: text(5) }),
  RemoveSnapshotRequest: KEY_REQUEST,
  StatSnapshotRequest: KEY_REQUEST,
  StatSnapshotResponse: INFO_RESPONSE,
  UpdateSnapshotRequest: request({ info: message(2, "Info"), updateMask: message(3, "FieldMask") }),
  UpdateSnapshotResponse: INFO_RESPONSE,
  ListSnapshotsRequest: request({ filters: { id: 2, type: "string", rule: "repeated" } }),
  ListSnapshotsResponse: { fields: { info: messages(1, "Info") } },
  UsageRequest: KEY_REQUEST,
  UsageResponse: { fields: { size: { id: 1, type: "int64" }, inodes: { id: 2, type: "int64" } } },
  CleanupRequest: request({}),
} as const satisfies Record<string, ProtoType>;

type MessageName = keyof typeof MESSAGES;
const method = (request: MessageName, response: MessageName): ProtoMethod => ({ request, response });

/** containerd's snapshots API v1. @see containerd api/services/snapshots/v1/snapshots.proto */
export const SNAPSHOTS_SERVICE = {
  name: "containerd.services.snapshots.v1.Snapshots",
  schema: { nested: MESSAGES },
  methods: {
    Prepare: method("PrepareSnapshotRequest", "PrepareSnapshotResponse"),
    View: method("ViewSnapshotRequest", "ViewSnapshotResponse"),
    Mounts: method("MountsRequest", "MountsResponse"),
    Commit: method("CommitSnapshotRequest", "Empty"),
    Remove: method("RemoveSnapshotRequest", "Empty"),
    Stat: method("StatSnapshotRequest", "StatSnapshotResponse"),
    Update: method("UpdateSnapshotRequest", "UpdateSnapshotResponse"),
    List: { ...method("ListSnapshotsRequest", "ListSnapshotsResponse"), responseStream: true },
    Usage: method("UsageRequest", "UsageResponse"),
    Cleanup: method("CleanupRequest", "Empty"),
  },
} as const satisfies ProtoService;

/** A mount as containerd passes it around: what it, or who asked it, is to mount. */
export interface ContainerdMount {
  readonly type: string;
  readonly source: string;
  /** Below the mount point; "" is the mount point itself. */
  readonly target: string;
  /** As in fstab, one an element. */
  readonly options: readonly string[];
}

/** A `containerd.types.Mount`, as the schema's message. */
export function encodeMount(mount: ContainerdMount): Record<keyof ContainerdMount, unknown> {
  return { ...mount, options: [...mount.options] };
}

/** The mount of a message of the schema. */
export function decodeMount(message: Readonly<Record<string, unknown>>): ContainerdMount {
  const { type = "", source = "", target = "", options = [] } = message as Partial<ContainerdMount>;
  return { type, source, target, options };
}

const MICROS_PER_SEC = 1_000_000;
const NANOS_PER_MICRO = 1_000;

/** A `google.protobuf.Timestamp`. @param micros since the epoch */
export function encodeTimestamp(micros: number): { readonly seconds: number; readonly nanos: number } {
  const seconds = Math.floor(micros / MICROS_PER_SEC);
  return { seconds, nanos: (micros - seconds * MICROS_PER_SEC) * NANOS_PER_MICRO };
}

/** Microseconds since the epoch. */
export function decodeTimestamp({ seconds, nanos }: { readonly seconds: number; readonly nanos: number }): number {
  return seconds * MICROS_PER_SEC + Math.floor(nanos / NANOS_PER_MICRO);
}
