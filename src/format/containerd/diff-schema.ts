import { COMMON_TYPES } from "./common-schema.ts";
import type { ProtoService } from "./proto.ts";

const { Any, Descriptor, Mount } = COMMON_TYPES;

/** Unpacking of layers by containerd itself (containerd api/services/diff/v1/diff.proto). */
export const DIFF_SERVICE: ProtoService = {
  name: "containerd.services.diff.v1.Diff",
  schema: {
    nested: {
      Any,
      Descriptor,
      Mount,
      ApplyRequest: {
        fields: {
          diff: { id: 1, type: "Descriptor" },
          mounts: { id: 2, type: "Mount", rule: "repeated" },
          payloads: { id: 3, type: "Any", keyType: "string" },
          syncFs: { id: 4, type: "bool" },
        },
      },
      ApplyResponse: { fields: { applied: { id: 1, type: "Descriptor" } } },
    },
  },
  methods: { Apply: { request: "ApplyRequest", response: "ApplyResponse" } },
};
