export function blake3(src: usize, size: usize, dst: usize): void {}
