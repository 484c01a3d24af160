import { bytesOfKey, keyOfBytes } from "../../src/base/bytes.ts";
import type { TarEntryType } from "../../src/format/tar/reader.ts";
import type { TarMember } from "../../src/format/tar/writer.ts";
import type { Random } from "./random.ts";

const LONGEST_PATH = 3000;
const OPAQUE = ".wh..wh..opq";

/**
 * One layer being made up. It keeps just enough account of what there is to ask for nothing that no applier could do;
 * a step that would is left out. Paths are Latin-1 keys without a leading slash.
 */
export class LayerDraft {
  readonly members: TarMember[] = [];
  readonly #random: Random;
  /** What the layers below show. */
  readonly #lower: ReadonlyMap<string, TarEntryType>;
  /** What the layer itself has, parents without entries included. */
  readonly #own = new Map<string, TarEntryType>();
  /** Paths whose lower content is hidden: whited out, or in an opaque directory. */
  readonly #hidden = new Set<string>();
  readonly #opaque = new Set<string>();
  /** Where overlayfs's own whiteouts stand in the layer's tar. */
  readonly #nodes = new Set<string>();
  /** Lower paths that links of this layer lead to: not to be hidden any more, the order would matter. */
  readonly #linked = new Set<string>();
  /** The names of those links: not to be replaced, the copying up would stay. */
  readonly #links = new Set<string>();

  constructor(random: Random, lower: ReadonlyMap<string, TarEntryType>) {
    this.#random = random;
    this.#lower = lower;
  }

  /** Paths that the layer or those below have. */
  known(): string[] {
    return [...new Set([...this.#lower.keys(), ...this.#own.keys()])];
  }

  /** Directories among {@link known}; `""` is not one of them. */
  directories(): string[] {
    return this.known().filter((path) => (this.#own.get(path) ?? this.#lower.get(path)) === "dir");
  }

  /** What the layers so far show together. */
  visible(): ReadonlyMap<string, TarEntryType> {
    const shown = new Map<string, TarEntryType>();
    for (const [path, type] of this.#lower) if (this.#lowerShows(path)) shown.set(path, type);
    for (const [path, type] of this.#own) shown.set(path, type);
    return shown;
  }

  file(path: string): void {
    const content = this.#random.bytes(this.#random.pick([0, 1, 5, 100, 511, 512, 513, 3000]));
    this.#add(path, "file", { sizeBytes: content.length, content: [content] });
  }

  dir(path: string): void {
    this.#add(path, "dir", {});
  }

  symlink(path: string): void {
    const targets = ["a", "../b", "/c/d", "nowhere", "l".repeat(1500), "raw\xff"];
    this.#add(path, "symlink", { linkPath: bytesOfKey(this.#random.pick(targets)) });
  }

  special(path: string): void {
    const type = this.#random.pick(["char", "block", "fifo"] as const);
    const device =
      type === "fifo" ? {} : { rdevMajor: this.#random.between(1, 4095), rdevMinor: this.#random.below(2 ** 20) };
    this.#add(path, type, device);
  }

  /** A hard link to something that the layer has. */
  hardLink(path: string): void {
    const targets = [...this.#own].filter(
      ([target, type]) => type !== "dir" && !isInside(target, path) && target !== path,
    );
    if (targets.length > 0) this.#add(path, "hardlink", { linkPath: bytesOfKey(this.#random.pick(targets)[0]) });
  }

  /** A hard link to something that only the layers below have. */
  lowerHardLink(path: string): void {
    const targets = [...this.#lower].filter(
      ([target, type]) =>
        type !== "dir" &&
        target !== path &&
        !isInside(target, path) &&
        !isInside(path, target) &&
        this.#isOnlyLower(target),
    );
    if (targets.length === 0 || !this.#isFree(path)) return;
    const [target] = this.#random.pick(targets);
    this.#linked.add(target);
    this.#makeParents(target); // an applier copies the target up: it is the layer's own from now on
    this.#own.set(target, this.#typeOf(target));
    this.#add(path, "hardlink", { linkPath: bytesOfKey(target) });
    this.#links.add(path);
  }

  whiteout(path: string): void {
    const keeps = [...this.#linked].every((target) => target !== path && !isInside(target, path));
    const slash = path.lastIndexOf("/");
    const name = path.slice(slash + 1);
    if (!keeps || !this.#isFree(path) || this.#isReplacedParent(path)) return;
    this.#makeParents(path);
    this.#hidden.add(path);
    this.#push(`${path.slice(0, slash + 1)}.wh.${name}`, "file", {});
  }

  opaque(dir: string): void {
    const keeps = [...this.#linked].every((target) => !isInside(target, dir));
    if (dir === "" || !keeps || !this.#isFree(`${dir}/x`) || this.#isReplacedParent(`${dir}/x`)) return;
    this.#makeParents(`${dir}/x`);
    this.#opaque.add(dir);
    this.#push(`${dir}/${OPAQUE}`, "file", {});
  }

  /** overlayfs's own form of a whiteout, in the tar. */
  whiteoutNode(path: string): void {
    const keeps = [...this.#linked, ...this.#links].every((kept) => kept !== path && !isInside(kept, path));
    if (!keeps || !this.#isFree(path)) return;
    this.#makeParents(path);
    this.#remove(path);
    this.#nodes.add(path);
    this.#replaced.add(path);
    this.#push(path, "char", { rdevMajor: 0, rdevMinor: 0 });
  }

  /** A symlink to a directory of the layer, and a file that is put there through it. */
  throughSymlink(dir: string, name: string): void {
    if (dir === "" || !this.#isFree(`${dir}/x/y`)) return;
    const link = `${dir}/zlink`;
    if (this.#own.has(link) || this.#own.has(`${dir}/real`)) return;
    this.dir(`${dir}/real`);
    this.#add(link, "symlink", { linkPath: bytesOfKey("real") });
    if (this.#own.get(link) !== "symlink") return;
    this.#push(`${link}/${name}`, "fifo", this.#attributes("fifo"));
    this.#own.set(`${dir}/real/${name}`, "fifo");
  }

  root(): void {
    this.#push("", "dir", this.#attributes("dir"));
  }

  /** What AUFS left in layers: not of the image. */
  aufsFile(dir: string): void {
    const path = dir === "" ? ".wh..wh.aufs" : `${dir}/.wh..wh.aufs`;
    if (!this.#isFree(path)) return;
    this.#makeParents(path);
    this.#push(path, "file", {});
  }

  #add(path: string, type: TarEntryType, fields: Partial<TarMember>): void {
    const kept = [...this.#linked, ...this.#links];
    const losesKept = type !== "dir" && kept.some((target) => isInside(target, path));
    if (losesKept || this.#links.has(path) || !this.#isFree(path)) return;
    this.#makeParents(path);
    if (!(type === "dir" && this.#own.get(path) === "dir")) this.#remove(path);
    this.#uncover(path, type === "dir");
    this.#own.set(path, type === "hardlink" ? this.#typeOf(keyOfBytes(fields.linkPath as Uint8Array)) : type);
    this.#push(path, type, { ...this.#attributes(type), ...fields });
  }

  #typeOf(path: string): TarEntryType {
    return this.#own.get(path) ?? (this.#lower.get(path) as TarEntryType);
  }

  /** Whether a path is short enough, and none of its parents is something else than a directory in this layer. */
  #isFree(path: string): boolean {
    if (path.length > LONGEST_PATH) return false;
    return parentsOf(path).every((parent) => (this.#own.get(parent) ?? "dir") === "dir");
  }

  /** Whether a parent was put in the place of something else of this layer: whiteouts come first in an applier. */
  #isReplacedParent(path: string): boolean {
    return parentsOf(path).some((parent) => this.#replaced.has(parent));
  }

  readonly #replaced = new Set<string>();

  #makeParents(path: string): void {
    for (const parent of parentsOf(path)) {
      this.#uncover(parent, true);
      if (!this.#own.has(parent)) this.#own.set(parent, "dir");
    }
  }

  /** What comes in the place of a whiteout node; as a directory it is opaque. */
  #uncover(path: string, isDir: boolean): void {
    if (this.#nodes.delete(path) && isDir) this.#opaque.add(path);
  }

  #remove(path: string): void {
    if (this.#own.has(path)) this.#replaced.add(path);
    for (const other of [...this.#own.keys()]) if (other === path || isInside(other, path)) this.#own.delete(other);
    for (const set of [this.#hidden, this.#opaque, this.#nodes]) {
      for (const other of [...set])
        if (isInside(other, path) || (set === this.#opaque && other === path)) set.delete(other);
    }
  }

  /** Whether a lower path is seen through this layer. */
  #lowerShows(path: string): boolean {
    if (this.#hidden.has(path) || this.#nodes.has(path)) return false;
    return parentsOf(path).every(
      (parent) =>
        !this.#hidden.has(parent) &&
        !this.#nodes.has(parent) &&
        !this.#opaque.has(parent) &&
        (this.#own.get(parent) ?? "dir") === "dir" &&
        this.#lower.get(parent) === "dir",
    );
  }

  /** Whether a path is seen through this layer, and is nothing that the layer has or had. */
  #isOnlyLower(path: string): boolean {
    if (this.#own.has(path) || !this.#lowerShows(path)) return false;
    return !this.#isReplacedParent(`${path}/x`);
  }

  #push(path: string, type: TarEntryType, fields: Partial<TarMember>): void {
    this.members.push({ mode: 0o644, ...fields, path: bytesOfKey(path), type });
  }

  #attributes(type: TarEntryType): Omit<TarMember, "path" | "type"> {
    const random = this.#random;
    const time = random.pick([0, 1, 1_700_000_000, -1, -1_000_000_000, 4_500_000_000, random.word()]);
    return {
      mode: random.pick([0o644, 0o755, 0o700, 0o000, 0o4755, 0o2755, 0o1777, random.below(0o10000)]),
      uid: random.pick([0, 0, 1000, 65536, 0xfffffffe]),
      gid: random.pick([0, 0, 42, 7654321]),
      mtimeSec: time,
      mtimeNsec: random.pick([0, 0, 1, 123456789, 999999999]),
      xattrs: this.#xattrs(type),
    };
  }

  #xattrs(type: TarEntryType): Map<string, Uint8Array> {
    const random = this.#random;
    const xattrs = new Map<string, Uint8Array>();
    if (random.chance(0.7) || type === "hardlink") return xattrs;
    const value = (): Uint8Array => random.bytes(random.pick([0, 1, 20, 300]));
    if (random.chance(0.6)) xattrs.set("user.alpha", value());
    if (random.chance(0.4)) xattrs.set("user.raw\xff", value());
    if (random.chance(0.4)) xattrs.set("trusted.tag", value());
    if (random.chance(0.1)) xattrs.set("trusted.overlay.origin", value());
    return xattrs;
  }
}

function parentsOf(path: string): string[] {
  const parents: string[] = [];
  for (let at = path.indexOf("/"); at >= 0; at = path.indexOf("/", at + 1)) parents.push(path.slice(0, at));
  return parents;
}

function isInside(path: string, dir: string): boolean {
  return path.startsWith(`${dir}/`);
}
