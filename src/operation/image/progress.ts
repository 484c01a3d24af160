/** A layer that is converted or pulled, as shown to a person. */
export interface ProgressLayer {
  /** Digest of the source layer: the key of all its events. */
  readonly digest: string;
  /** Bytes of the source layer as stored (compressed). */
  readonly sizeBytes: number;
}

/** What an operation on layers tells while it runs. Calls are cheap, never throw, and may come from layers in parallel. */
export interface ImageProgress {
  layerStarted(layer: ProgressLayer): void;
  /** `bytes` more of the source layer as stored have been read; fewer than none when they must be read again. */
  layerAdvanced(layer: ProgressLayer, bytes: number): void;
  /** The layer's blob is in the target. @param result.reused it was there before */
  layerDone(layer: ProgressLayer, result: { readonly blobBytes: number; readonly reused?: boolean }): void;
  /** A step that is no layer's: "merging 7 layers", "writing manifest". */
  step(message: string): void;
}

/** Tells nobody. */
export const NO_PROGRESS: ImageProgress = {
  layerStarted: () => undefined,
  layerAdvanced: () => undefined,
  layerDone: () => undefined,
  step: () => undefined,
};
