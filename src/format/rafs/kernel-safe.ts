import { FEATURE_COMPAT_RAFS_V6 } from "../erofs/superblock.ts";
import { type BootstrapReport, checkBootstrap, type Finding } from "./check.ts";
import { openRafs, type RafsImage } from "./image.ts";

/** Modification times only, and that RAFS tables follow: nothing that the driver would parse. */
const COMPAT_KNOWN = 0x2 | FEATURE_COMPAT_RAFS_V6;

/** Changes whenever {@link checkForDriver} refuses more than before: what an older one passed is checked again. */
export const KERNEL_CHECK_VERSION = 1;

/**
 * Whether a bootstrap may be handed to the kernel's EROFS driver: sound as `checkBootstrap` has it (all inodes,
 * directories, attributes and chunk indexes lie within the image and its devices, which the driver takes as they are),
 * and without any feature that was not looked at. Every block that a file can read is then a chunk of the chunk table.
 * @throws ENOTSUP what this program does not read
 */
export function checkForDriver(bytes: Uint8Array): BootstrapReport {
  const report = checkBootstrap(bytes);
  if (report.findings.length > 0) return report;
  return { ...report, findings: superblockFindings(openRafs(bytes)) };
}

function superblockFindings({ bytes, erofs }: RafsImage): Finding[] {
  const { superblock, devices, blockBytes } = erofs;
  const findings: Finding[] = [];
  const find = (isBad: boolean, message: string): void => void (isBad && findings.push({ message }));
  const compat = superblock.featureCompat & ~COMPAT_KNOWN;
  find(compat !== 0, `Superblock has compatible features 0x${(compat >>> 0).toString(16)}`);
  find(superblock.sbExtslots !== 0, `Superblock has ${superblock.sbExtslots} extension slots`);
  find(superblock.u1 !== 0, `Superblock names compression algorithms 0x${superblock.u1.toString(16)}`);
  find(superblock.xattrPrefixCount !== 0, `Superblock has ${superblock.xattrPrefixCount} attribute prefixes`);
  find(superblock.packedNid !== 0n, `Superblock has a packed inode, nid ${superblock.packedNid}`);
  find(superblock.rootnid8b !== 0n || superblock.reserved2 !== 0n, "Superblock has numbers of 48-bit images");
  find(bytes.length % blockBytes !== 0, `Image has ${bytes.length} bytes, whole blocks wanted`);
  let end = bytes.length;
  for (const { slot, uniaddr, blocks } of [...devices].sort((a, b) => a.uniaddr - b.uniaddr)) {
    if (uniaddr === 0) continue;
    const start = uniaddr * blockBytes;
    find(start < end, `Device ${slot} begins at ${start} of the flat addresses, wanted ${end} or more`);
    end = start + blocks * blockBytes;
  }
  return findings;
}
