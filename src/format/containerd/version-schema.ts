import type { ProtoService } from "./proto.ts";

/** Which containerd answers (containerd api/services/version/v1/version.proto). */
export const VERSION_SERVICE: ProtoService = {
  name: "containerd.services.version.v1.Version",
  schema: {
    nested: {
      Empty: { fields: {} },
      VersionResponse: { fields: { version: { id: 1, type: "string" }, revision: { id: 2, type: "string" } } },
    },
  },
  methods: { Version: { request: "Empty", response: "VersionResponse" } },
};
