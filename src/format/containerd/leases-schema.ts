import { COMMON_TYPES } from "./common-schema.ts";
import type { ProtoService } from "./proto.ts";

const { Empty, Timestamp } = COMMON_TYPES;

/** containerd's leases, which keep things from its garbage collector (containerd api/services/leases/v1/leases.proto). */
export const LEASES_SERVICE: ProtoService = {
  name: "containerd.services.leases.v1.Leases",
  schema: {
    nested: {
      Empty,
      Timestamp,
      Lease: {
        fields: {
          id: { id: 1, type: "string" },
          createdAt: { id: 2, type: "Timestamp" },
          labels: { id: 3, type: "string", keyType: "string" },
        },
      },
      CreateRequest: {
        fields: { id: { id: 1, type: "string" }, labels: { id: 3, type: "string", keyType: "string" } },
      },
      CreateResponse: { fields: { lease: { id: 1, type: "Lease" } } },
      DeleteRequest: { fields: { id: { id: 1, type: "string" }, sync: { id: 2, type: "bool" } } },
      ListRequest: { fields: { filters: { id: 1, type: "string", rule: "repeated" } } },
      ListResponse: { fields: { leases: { id: 1, type: "Lease", rule: "repeated" } } },
      Resource: { fields: { id: { id: 1, type: "string" }, type: { id: 2, type: "string" } } },
      AddResourceRequest: { fields: { id: { id: 1, type: "string" }, resource: { id: 2, type: "Resource" } } },
    },
  },
  methods: {
    Create: { request: "CreateRequest", response: "CreateResponse" },
    Delete: { request: "DeleteRequest", response: "Empty" },
    List: { request: "ListRequest", response: "ListResponse" },
    AddResource: { request: "AddResourceRequest", response: "Empty" },
  },
};
