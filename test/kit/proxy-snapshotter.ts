import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../src/base/errors.ts";
import { SNAPSHOTS_SERVICE } from "../../src/format/containerd/snapshots-schema.ts";
import { type Handler, type Message, serveGrpc } from "../../src/os/grpc.ts";

/** A snapshot as the snapshotter below keeps it. */
export interface KeptSnapshot {
  readonly name: string;
  readonly parent: string;
  readonly kind: number;
  readonly labels: Readonly<Record<string, string>>;
  /** Where its layer is unpacked to. */
  readonly dir: string;
}

/** A snapshotter that takes Nydus blobs without data and shows what it was asked. */
export interface FakeSnapshotter extends AsyncDisposable {
  readonly address: string;
  /** By their names in the snapshotter. */
  readonly snapshots: ReadonlyMap<string, KeptSnapshot>;
  /** Committed ones by their last name, the chain id. */
  committed(): Map<string, KeptSnapshot>;
}

const [ACTIVE, COMMITTED] = [2, 3];
const BLOB = "containerd.io/snapshot/nydus-blob";

/** Serves containerd's snapshots API in memory: every layer has a directory, blob layers need none. */
export async function startFakeSnapshotter(dir: string): Promise<FakeSnapshotter> {
  const snapshots = new Map<string, KeptSnapshot>();
  const address = join(dir, "snapshotter.sock");
  const get = (key: string): KeptSnapshot => {
    const found = snapshots.get(key);
    if (found === undefined) throw new NydusError("ENOENT", `no snapshot ${key}`);
    return found;
  };
  let count = 0;
  const make = ({ key, parent, labels }: Message, kind: number): KeptSnapshot => {
    if (snapshots.has(key)) throw new NydusError("EEXIST", `snapshot ${key} is there`);
    const made = { name: key, parent, kind, labels, dir: join(dir, `layer-${count++}`) };
    mkdirSync(made.dir);
    snapshots.set(key, made);
    return made;
  };
  const bind = ({ dir: source }: KeptSnapshot): Message => ({
    mounts: [{ type: "bind", source, target: "", options: ["rbind", "rw"] }],
  });
  const info = ({ name, parent, kind, labels }: KeptSnapshot): Message => ({ name, parent, kind, labels });
  const handlers: Record<string, Handler> = {
    Prepare: async (request) => {
      if (request["labels"][BLOB] === undefined) return bind(make(request, ACTIVE));
      make({ ...request, key: `${request["key"]}-blob` }, COMMITTED);
      throw new NydusError("EEXIST", "the layer needs no unpacking");
    },
    View: async (request) => bind(make(request, 1)),
    Mounts: async ({ key }) => bind(get(key)),
    Commit: async ({ name, key, labels }) => {
      const active = get(key);
      snapshots.delete(key);
      snapshots.set(name, { ...active, name, kind: COMMITTED, labels });
      return {};
    },
    Remove: async ({ key }) => {
      rmSync(get(key).dir, { recursive: true, force: true });
      snapshots.delete(key);
      return {};
    },
    Stat: async ({ key }) => ({ info: info(get(key)) }),
    Update: async ({ info: { name, labels } }) => {
      const updated = { ...get(name), labels };
      snapshots.set(name, updated);
      return { info: info(updated) };
    },
    List: async function* () {
      yield { info: [...snapshots.values()].map(info) };
    },
    Usage: async () => ({ size: 0, inodes: 0 }),
    Cleanup: async () => ({}),
  };
  const server = await serveGrpc(address, [{ service: SNAPSHOTS_SERVICE, handlers }]);
  const committed = (): Map<string, KeptSnapshot> => {
    const kept = [...snapshots.values()].filter(({ kind }) => kind === COMMITTED);
    return new Map(kept.map((one) => [one.labels["containerd.io/snapshot.ref"] ?? "", one]));
  };
  return { address, snapshots, committed, [Symbol.asyncDispose]: () => server.close() };
}
