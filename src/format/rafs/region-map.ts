/** A part of the bootstrap that something occupies, `[start, end)`. */
export interface Claim {
  readonly start: number;
  readonly end: number;
  /** What it is, for messages. */
  readonly what: string;
}

/** Says who owns each byte of a bootstrap: nobody twice, and what nobody owns is zero. */
export class RegionMap {
  readonly #claims: Claim[] = [];

  /** Records an owner; empty claims are dropped. */
  claim(start: number, length: number, what: string): void {
    if (length > 0) this.#claims.push({ start, end: start + length, what });
  }

  /** Owners that overlap, and bytes without an owner that are not zero, in the order of the image. */
  *problems(image: Uint8Array): Generator<{ readonly offset: number; readonly message: string }> {
    const claims = this.#claims.sort((a, b) => a.start - b.start || a.end - b.end);
    let end = 0;
    let last = "the start";
    for (const claim of claims) {
      if (claim.start < end) {
        yield { offset: claim.start, message: `${claim.what} overlaps ${last}` };
      } else {
        yield* stray(image, end, claim.start);
      }
      if (claim.end > end) {
        end = claim.end;
        last = claim.what;
      }
    }
    yield* stray(image, end, image.length);
  }
}

function* stray(image: Uint8Array, start: number, end: number): Generator<{ offset: number; message: string }> {
  for (let at = start; at < end; at++) {
    if (image[at] === 0) continue;
    yield { offset: at, message: `bytes that nothing owns, up to ${end}, are not zero` };
    return;
  }
}
