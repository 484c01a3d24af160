/** Where a containerd listens, and whose things are meant. */
export interface ContainerdPlace {
  /** Path of its unix socket. */
  readonly address: string;
  readonly namespace: string;
}

/** What nerdctl and ctr take when nothing is said. */
export const DEFAULT_CONTAINERD: ContainerdPlace = {
  address: "/run/containerd/containerd.sock",
  namespace: "default",
};
