import { BlockList, isIP } from "node:net";

/**
 * Where no server of another's choosing may send us: link-local addresses, where clouds serve the machine's own
 * credentials, their other metadata addresses, and "this host". Private and loopback addresses are not among them: registries
 * of closed networks live there.
 */
const FORBIDDEN = forbiddenAddresses();

function forbiddenAddresses(): BlockList {
  const list = new BlockList();
  list.addSubnet("169.254.0.0", 16, "ipv4");
  list.addSubnet("0.0.0.0", 8, "ipv4");
  list.addAddress("100.100.100.200", "ipv4"); // Alibaba Cloud
  list.addAddress("168.63.129.16", "ipv4"); // Azure
  list.addAddress("192.0.0.192", "ipv4"); // Oracle Cloud
  list.addSubnet("fe80::", 10, "ipv6");
  list.addAddress("fd00:ec2::254", "ipv6"); // EC2
  list.addAddress("::", "ipv6");
  return list;
}

/** IPv6 prefixes that carry an IPv4 address in their last 32 bits: mapped, and NAT64. */
const CARRIERS = [/^::ffff:/, /^64:ff9b::/];

/** Whether an address may be connected to on another server's word. @param address IPv4 or IPv6, without brackets */
export function isForbiddenAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 4) return FORBIDDEN.check(address, "ipv4");
  if (family !== 6) return false;
  const plain = canonicalIpv6(address);
  if (FORBIDDEN.check(plain, "ipv6")) return true;
  const carrier = CARRIERS.find((prefix) => prefix.test(plain));
  return carrier !== undefined && FORBIDDEN.check(carriedIpv4(plain.replace(carrier, "")), "ipv4");
}

function canonicalIpv6(address: string): string {
  const [plain = ""] = address.split("%"); // the zone
  return new URL(`http://[${plain}]/`).hostname.slice(1, -1);
}

/** `a9fe:a9fe` as `169.254.169.254`. */
function carriedIpv4(tail: string): string {
  const groups = tail.split(":").map((group) => Number.parseInt(group || "0", 16));
  const [low = 0, high = 0] = groups.reverse();
  return [high >> 8, high & 0xff, low >> 8, low & 0xff].join(".");
}
