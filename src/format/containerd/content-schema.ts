import { COMMON_TYPES } from "./common-schema.ts";
import type { ProtoService } from "./proto.ts";

const { Empty, Timestamp, FieldMask } = COMMON_TYPES;

/** What one message of `Write` is to do. */
export const WRITE_ACTION = { stat: 0, write: 1, commit: 2 } as const;

/** containerd's content store (containerd api/services/content/v1/content.proto). */
export const CONTENT_SERVICE: ProtoService = {
  name: "containerd.services.content.v1.Content",
  schema: {
    nested: {
      Empty,
      Timestamp,
      FieldMask,
      Info: {
        fields: {
          digest: { id: 1, type: "string" },
          size: { id: 2, type: "int64" },
          createdAt: { id: 3, type: "Timestamp" },
          updatedAt: { id: 4, type: "Timestamp" },
          labels: { id: 5, type: "string", keyType: "string" },
        },
      },
      InfoRequest: { fields: { digest: { id: 1, type: "string" } } },
      InfoResponse: { fields: { info: { id: 1, type: "Info" } } },
      UpdateRequest: { fields: { info: { id: 1, type: "Info" }, updateMask: { id: 2, type: "FieldMask" } } },
      UpdateResponse: { fields: { info: { id: 1, type: "Info" } } },
      ListContentRequest: { fields: { filters: { id: 1, type: "string", rule: "repeated" } } },
      ListContentResponse: { fields: { info: { id: 1, type: "Info", rule: "repeated" } } },
      DeleteContentRequest: { fields: { digest: { id: 1, type: "string" } } },
      ReadContentRequest: {
        fields: {
          digest: { id: 1, type: "string" },
          offset: { id: 2, type: "int64" },
          size: { id: 3, type: "int64" },
        },
      },
      ReadContentResponse: { fields: { offset: { id: 1, type: "int64" }, data: { id: 2, type: "bytes" } } },
      Status: {
        fields: {
          startedAt: { id: 1, type: "Timestamp" },
          updatedAt: { id: 2, type: "Timestamp" },
          ref: { id: 3, type: "string" },
          offset: { id: 4, type: "int64" },
          total: { id: 5, type: "int64" },
          expected: { id: 6, type: "string" },
        },
      },
      StatusRequest: { fields: { ref: { id: 1, type: "string" } } },
      StatusResponse: { fields: { status: { id: 1, type: "Status" } } },
      ListStatusesRequest: { fields: { filters: { id: 1, type: "string", rule: "repeated" } } },
      ListStatusesResponse: { fields: { statuses: { id: 1, type: "Status", rule: "repeated" } } },
      WriteAction: { values: { STAT: WRITE_ACTION.stat, WRITE: WRITE_ACTION.write, COMMIT: WRITE_ACTION.commit } },
      WriteContentRequest: {
        fields: {
          action: { id: 1, type: "WriteAction" },
          ref: { id: 2, type: "string" },
          total: { id: 3, type: "int64" },
          expected: { id: 4, type: "string" },
          offset: { id: 5, type: "int64" },
          data: { id: 6, type: "bytes" },
          labels: { id: 7, type: "string", keyType: "string" },
        },
      },
      WriteContentResponse: {
        fields: {
          action: { id: 1, type: "WriteAction" },
          startedAt: { id: 2, type: "Timestamp" },
          updatedAt: { id: 3, type: "Timestamp" },
          offset: { id: 4, type: "int64" },
          total: { id: 5, type: "int64" },
          digest: { id: 6, type: "string" },
        },
      },
      AbortRequest: { fields: { ref: { id: 1, type: "string" } } },
    },
  },
  methods: {
    Info: { request: "InfoRequest", response: "InfoResponse" },
    Update: { request: "UpdateRequest", response: "UpdateResponse" },
    List: { request: "ListContentRequest", response: "ListContentResponse", responseStream: true },
    Delete: { request: "DeleteContentRequest", response: "Empty" },
    Read: { request: "ReadContentRequest", response: "ReadContentResponse", responseStream: true },
    Status: { request: "StatusRequest", response: "StatusResponse" },
    ListStatuses: { request: "ListStatusesRequest", response: "ListStatusesResponse" },
    Write: {
      request: "WriteContentRequest",
      response: "WriteContentResponse",
      requestStream: true,
      responseStream: true,
    },
    Abort: { request: "AbortRequest", response: "Empty" },
  },
};
