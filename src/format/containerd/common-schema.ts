import type { ProtoType } from "./proto.ts";
import { EMPTY_TYPE, FIELD_MASK_TYPE, MOUNT_TYPE, TIMESTAMP_TYPE } from "./snapshots-schema.ts";

/** Messages that several of containerd's services use (google/protobuf, containerd api/types). */
export const COMMON_TYPES = {
  Empty: EMPTY_TYPE,
  Timestamp: TIMESTAMP_TYPE,
  FieldMask: FIELD_MASK_TYPE,
  Mount: MOUNT_TYPE,
  Any: { fields: { typeUrl: { id: 1, type: "string" }, value: { id: 2, type: "bytes" } } },
  Descriptor: {
    fields: {
      mediaType: { id: 1, type: "string" },
      digest: { id: 2, type: "string" },
      size: { id: 3, type: "int64" },
      annotations: { id: 5, type: "string", keyType: "string" },
    },
  },
} as const satisfies Readonly<Record<string, ProtoType>>;
