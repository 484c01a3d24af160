/** The part of the optional package fuse-native 2.2.6 that is used: it brings no types. */
declare module "fuse-native" {
  type Done = (status: number, ...results: unknown[]) => void;

  interface FuseOptions {
    readonly allowOther?: boolean;
    readonly defaultPermissions?: boolean;
    readonly kernelCache?: boolean;
    readonly entryTimeout?: number;
    readonly attrTimeout?: number;
    readonly fsname?: string;
    readonly subtype?: string;
    /** Milliseconds, or false for none. */
    readonly timeout?: number | false;
  }

  class Fuse {
    constructor(mountpoint: string, operations: Readonly<Record<string, unknown>>, options: FuseOptions);
    mount(done: (error: Error | null) => void): void;
    unmount(done: (error: Error | null) => void): void;
    static unmount(mountpoint: string, done: (error: Error | null) => void): void;
    // Inner handlers, given the buffer that the answer goes into.
    _op_getxattr: (signal: Done, path: string, name: string, value: Buffer) => void;
    _op_listxattr: (signal: Done, path: string, list: Buffer) => void;
  }

  export = Fuse;
}
