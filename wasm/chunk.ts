export function countChunks(extents: usize, count: usize, chunkSize: u32): usize { return 0; }
export function digestChunks(algorithm: u32, data: usize, size: usize, extents: usize, count: usize, chunkSize: u32, dst: usize): void {}
