import type { ProtoType } from "./proto.ts";

/** Messages that several of containerd's services use (google/protobuf, containerd api/types). */
export const COMMON_TYPES = {
  Empty: { fields: {} },
  Timestamp: { fields: { seconds: { id: 1, type: "int64" }, nanos: { id: 2, type: "int32" } } },
  FieldMask: { fields: { paths: { id: 1, type: "string", rule: "repeated" } } },
  Any: { fields: { typeUrl: { id: 1, type: "string" }, value: { id: 2, type: "bytes" } } },
  Descriptor: {
    fields: {
      mediaType: { id: 1, type: "string" },
      digest: { id: 2, type: "string" },
      size: { id: 3, type: "int64" },
      annotations: { id: 5, type: "string", keyType: "string" },
    },
  },
  Mount: {
    fields: {
      type: { id: 1, type: "string" },
      source: { id: 2, type: "string" },
      target: { id: 3, type: "string" },
      options: { id: 4, type: "string", rule: "repeated" },
    },
  },
} as const satisfies Readonly<Record<string, ProtoType>>;
