import { BUSY } from "./abi";
export function lz4Bound(size: usize): usize { return size + size / 255 + 16; }
export function lz4Compress(src: usize, size: usize, dst: usize): usize { return 0; }
export function lz4Decompress(src: usize, srcSize: usize, dst: usize, size: usize): i32 { return BUSY; }
