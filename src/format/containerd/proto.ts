/** A field: its number and its type, a scalar of protobuf or a message of the schema. */
export interface ProtoField {
  readonly id: number;
  readonly type: string;
  readonly rule?: "repeated";
  /** Of a map field; its values are of `type`. */
  readonly keyType?: string;
}

/** A message by its fields, or an enumeration by its values. */
export type ProtoType =
  | {
      readonly fields: Readonly<Record<string, ProtoField>>;
      readonly oneofs?: Readonly<Record<string, { readonly oneof: readonly string[] }>>;
    }
  | { readonly values: Readonly<Record<string, number>> };

/** Messages by their names, as protobuf's JSON descriptors have them; field names are ours, numbers are the facts. */
export interface ProtoSchema {
  readonly nested: Readonly<Record<string, ProtoType>>;
}

/** A method of a service: names of messages of the schema. */
export interface ProtoMethod {
  readonly request: string;
  readonly response: string;
  readonly requestStream?: boolean;
  readonly responseStream?: boolean;
}

/** A gRPC service by its full name, with its messages. */
export interface ProtoService {
  readonly name: string;
  readonly schema: ProtoSchema;
  readonly methods: Readonly<Record<string, ProtoMethod>>;
}
