import { COMMON_TYPES } from "./common-schema.ts";
import type { ProtoService } from "./proto.ts";

const { Empty, Timestamp, FieldMask, Descriptor } = COMMON_TYPES;

/** containerd's names of images (containerd api/services/images/v1/images.proto). */
export const IMAGES_SERVICE: ProtoService = {
  name: "containerd.services.images.v1.Images",
  schema: {
    nested: {
      Empty,
      Timestamp,
      FieldMask,
      Descriptor,
      Image: {
        fields: {
          name: { id: 1, type: "string" },
          labels: { id: 2, type: "string", keyType: "string" },
          target: { id: 3, type: "Descriptor" },
          createdAt: { id: 7, type: "Timestamp" },
          updatedAt: { id: 8, type: "Timestamp" },
        },
      },
      GetImageRequest: { fields: { name: { id: 1, type: "string" } } },
      GetImageResponse: { fields: { image: { id: 1, type: "Image" } } },
      CreateImageRequest: { fields: { image: { id: 1, type: "Image" } } },
      CreateImageResponse: { fields: { image: { id: 1, type: "Image" } } },
      UpdateImageRequest: { fields: { image: { id: 1, type: "Image" }, updateMask: { id: 2, type: "FieldMask" } } },
      UpdateImageResponse: { fields: { image: { id: 1, type: "Image" } } },
      ListImagesRequest: { fields: { filters: { id: 1, type: "string", rule: "repeated" } } },
      ListImagesResponse: { fields: { images: { id: 1, type: "Image", rule: "repeated" } } },
      DeleteImageRequest: { fields: { name: { id: 1, type: "string" }, sync: { id: 2, type: "bool" } } },
    },
  },
  methods: {
    Get: { request: "GetImageRequest", response: "GetImageResponse" },
    List: { request: "ListImagesRequest", response: "ListImagesResponse" },
    Create: { request: "CreateImageRequest", response: "CreateImageResponse" },
    Update: { request: "UpdateImageRequest", response: "UpdateImageResponse" },
    Delete: { request: "DeleteImageRequest", response: "Empty" },
  },
};
