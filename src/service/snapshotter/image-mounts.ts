/** A Nydus image as the snapshotter knows it: its bootstrap layer has been unpacked into a snapshot. */
export interface SnapshotImage {
  /** Of the snapshot that holds the bootstrap: a directory name, and what the mount is known by. */
  readonly snapshotId: string;
  /** The snapshot's name as containerd gave it, `NAMESPACE/NUMBER/CHAIN ID`: its first part says whose content it is. */
  readonly name: string;
  /** Directory that the bootstrap layer was unpacked into: `image/image.boot` is below it. */
  readonly bootstrapDir: string;
  /** Of the bootstrap when its layer was committed, hex; a snapshot of an earlier version has none. */
  readonly bootstrapSha256?: string | undefined;
  /** Where the image is to be mounted; made if it is not there. */
  readonly mountpoint: string;
  /** Labels of the snapshot: who may say where data comes from, nothing else. */
  readonly labels: ReadonlyMap<string, string>;
}

/** Mounts images for the snapshotter; what it mounts outlives the snapshotter. */
export interface ImageMounts extends AsyncDisposable {
  /**
   * Mounts an image unless it is mounted and answers. Calls for one snapshot wait for each other.
   * @throws what the mount daemon throws: ENOENT, EUCLEAN, EBADMSG a bad bootstrap; EIO, ETIMEDOUT; EPERM
   */
  mount(image: SnapshotImage, signal: AbortSignal): Promise<void>;
  /** Unmounts; done when nothing is mounted there. @throws EBUSY a container still uses it */
  umount(mountpoint: string): Promise<void>;
  /** Whether the image is mounted and its server alive. */
  isMounted(mountpoint: string): boolean;
  /** Bytes that the caches of a blob take on disk. @param blobId 64 hex digits */
  blobUsageBytes(blobId: string): Promise<number>;
  /** Removes cached blobs that no mount uses and no id in `needed` names. */
  sweep(needed: ReadonlySet<string>): Promise<void>;
}
