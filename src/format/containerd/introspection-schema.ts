import type { ProtoService } from "./proto.ts";

/** What a containerd is made of (containerd api/services/introspection/v1/introspection.proto, google/rpc/status.proto). */
export const INTROSPECTION_SERVICE: ProtoService = {
  name: "containerd.services.introspection.v1.Introspection",
  schema: {
    nested: {
      Status: { fields: { code: { id: 1, type: "int32" }, message: { id: 2, type: "string" } } },
      Plugin: {
        fields: {
          type: { id: 1, type: "string" },
          id: { id: 2, type: "string" },
          exports: { id: 5, type: "string", keyType: "string" },
          capabilities: { id: 6, type: "string", rule: "repeated" },
          initErr: { id: 7, type: "Status" },
        },
      },
      PluginsRequest: { fields: { filters: { id: 1, type: "string", rule: "repeated" } } },
      PluginsResponse: { fields: { plugins: { id: 1, type: "Plugin", rule: "repeated" } } },
    },
  },
  methods: { Plugins: { request: "PluginsRequest", response: "PluginsResponse" } },
};
