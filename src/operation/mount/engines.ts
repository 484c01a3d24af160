import { hasLibc } from "../../os/syscall.ts";
import { openAutoHost } from "./auto-engine.ts";
import type { MountEngine } from "./engine.ts";
import { openErofsHost } from "./erofs/engine.ts";
import { openFuseNativeHost } from "./fuse/native-engine.ts";
import { openFuseHost } from "./fuse/session.ts";

/** The ways to mount, by the name that `--engine` takes. */
export const ENGINES = {
  auto: { name: "auto", open: openAutoHost },
  fuse: { name: "fuse", open: openFuseHost },
  erofs: { name: "erofs", open: openErofsHost },
  "fuse-native": { name: "fuse-native", open: openFuseNativeHost },
} as const satisfies Record<string, MountEngine>;

/** The name of a mount engine. */
export type EngineName = keyof typeof ENGINES;

/** The engine that is used unless another is asked for: libfuse where there is no way to call mount(2). */
export const DEFAULT_ENGINE: EngineName = hasLibc() ? "auto" : "fuse-native";
