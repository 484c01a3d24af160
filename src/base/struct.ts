import { safeU64, viewOf } from "./bytes.ts";
import { NydusError } from "./errors.ts";

/** One field type of a fixed-layout little-endian record. */
export interface FieldType<T> {
  readonly sizeBytes: number;
  read(view: DataView, at: number): T;
  write(view: DataView, at: number, value: T): void;
}

export const u8: FieldType<number> = {
  sizeBytes: 1,
  read: (view, at) => view.getUint8(at),
  write: (view, at, value) => view.setUint8(at, value),
};
export const u16: FieldType<number> = {
  sizeBytes: 2,
  read: (view, at) => view.getUint16(at, true),
  write: (view, at, value) => view.setUint16(at, value, true),
};
export const u32: FieldType<number> = {
  sizeBytes: 4,
  read: (view, at) => view.getUint32(at, true),
  write: (view, at, value) => view.setUint32(at, value, true),
};
export const i32: FieldType<number> = {
  sizeBytes: 4,
  read: (view, at) => view.getInt32(at, true),
  write: (view, at, value) => view.setInt32(at, value, true),
};
/** A u64 that must be a safe number: sizes and offsets. Reading throws EUCLEAN above 2^53-1. */
export const u64: FieldType<number> = {
  sizeBytes: 8,
  read: (view, at) => safeU64(view.getBigUint64(at, true), at),
  write: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
};
/** A u64 of which every bit counts: flags, request ids. */
export const u64n: FieldType<bigint> = {
  sizeBytes: 8,
  read: (view, at) => view.getBigUint64(at, true),
  write: (view, at, value) => view.setBigUint64(at, value, true),
};
/** `n` raw bytes. Reading gives a view, not a copy; writing shorter bytes leaves zeros. */
export function bytes(n: number): FieldType<Uint8Array> {
  return {
    sizeBytes: n,
    read: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, n),
    write: (view, at, value) => new Uint8Array(view.buffer, view.byteOffset + at, n).set(value),
  };
}

// biome-ignore lint/suspicious/noExplicitAny: a field type is invariant in T; the table holds any of them
type AnyFields = Readonly<Record<string, readonly [offset: number, type: FieldType<any>]>>;
type ValuesOf<F extends AnyFields> = {
  readonly [K in keyof F]: F[K][1] extends FieldType<infer T> ? T : never;
};

/** A record layout: offsets and sizes of its fields, and reads and writes through them. */
export interface Struct<F extends AnyFields> {
  readonly title: string;
  readonly sizeBytes: number;
  /** Byte offset of each field, for hot loops on a DataView. */
  readonly at: { readonly [K in keyof F]: number };
  /** @throws EUCLEAN when the record would end past `source` */
  read(source: Uint8Array, offset: number): ValuesOf<F>;
  /** Fields left out are written as zeros. */
  write(target: Uint8Array, offset: number, values: Partial<ValuesOf<F>>): void;
}

/** The value type of a struct. */
export type StructOf<S> = S extends Struct<infer F> ? ValuesOf<F> : never;

/**
 * Declares a little-endian record. Loading the module fails on a gap, an overlap or a wrong total.
 * @param title the name in the specification
 * @param sizeBytes the whole record
 * @param fields name: [offset, type], in the order of offsets
 */
export function struct<const F extends AnyFields>(title: string, sizeBytes: number, fields: F): Struct<F> {
  const rows = Object.entries(fields);
  let next = 0;
  for (const [name, [offset, type]] of rows) {
    if (offset !== next) throw new Error(`struct ${title}: ${name} is at ${offset}, the field before ends at ${next}`);
    next = offset + type.sizeBytes;
  }
  if (next !== sizeBytes) throw new Error(`struct ${title}: fields end at ${next}, the record at ${sizeBytes}`);
  return {
    title,
    sizeBytes,
    at: Object.fromEntries(rows.map(([name, [offset]]) => [name, offset])) as Struct<F>["at"],
    read(source, offset) {
      if (offset < 0 || offset + sizeBytes > source.length) {
        const wanted = `${sizeBytes} bytes wanted, ${Math.max(0, source.length - offset)} left`;
        throw new NydusError("EUCLEAN", `Cannot decode ${title}: ${wanted}`, { offset, length: sizeBytes });
      }
      const view = viewOf(source);
      return Object.fromEntries(
        rows.map(([name, [fieldOffset, type]]) => [name, type.read(view, offset + fieldOffset)]),
      ) as ValuesOf<F>;
    },
    write(target, offset, values) {
      target.fill(0, offset, offset + sizeBytes);
      const view = viewOf(target);
      for (const [name, [fieldOffset, type]] of rows) {
        const value = (values as Record<string, unknown>)[name];
        if (value !== undefined) type.write(view, offset + fieldOffset, value);
      }
    },
  };
}
