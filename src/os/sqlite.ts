import { asNydusError, type ErrorCode, NydusError } from "../base/errors.ts";
import { runtime } from "./runtime.ts";

/** What a column holds here. */
export type SqlValue = string | number | null;
/** A row by its columns' names. */
export type SqlRow = Readonly<Record<string, SqlValue>>;

/** A prepared statement. Values stand for its `?` in order. */
export interface SqlStatement {
  /** Runs it. @returns rows changed, and the id of the row that was inserted last @throws as {@link SqlDatabase} */
  run(...values: SqlValue[]): { readonly changes: number; readonly lastId: number };
  get(...values: SqlValue[]): SqlRow | undefined;
  all(...values: SqlValue[]): SqlRow[];
}

/**
 * A SQLite database of this process alone, durable at each commit.
 * Its errors: EEXIST a constraint, ENOSPC, EUCLEAN a damaged file, EBUSY another process, EIO.
 */
export interface SqlDatabase extends Disposable {
  /** Runs statements without values. */
  exec(sql: string): void;
  /** A statement; the same text gives the same one. */
  statement(sql: string): SqlStatement;
  /** Runs `change` in one transaction: all of it is durable when this returns, and nothing of it when it throws. */
  transaction<T>(change: () => T): T;
}

/** The part of bun:sqlite and node:sqlite that both have. */
interface NativeStatement {
  run(...values: SqlValue[]): { changes: number | bigint; lastInsertRowid: number | bigint };
  get(...values: SqlValue[]): unknown;
  all(...values: SqlValue[]): unknown[];
  /** Bun's only: a database with statements is not closed before they are collected, and its lock stays. */
  finalize?(): void;
}
interface NativeDatabase {
  exec(sql: string): unknown;
  prepare(sql: string): NativeStatement;
  close(): void;
}

/**
 * A write-ahead log that is synced at each commit (one sync a transaction; a torn commit is undone by its checksum), and a
 * lock for as long as the database is open: no second process, and no shared memory file.
 */
const SETTINGS = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";

/**
 * Opens a database, which is made if it is not there, and checks all of it.
 * @throws EUCLEAN it is damaged, or no database; EBUSY another process has it open; ENOTSUP the runtime has no SQLite
 */
export function openDatabase(path: string): SqlDatabase {
  const native = failing(path, () => openNative(path));
  try {
    failing(path, () => native.exec(SETTINGS));
    checkDatabase(path, native);
    return new Database(path, native);
  } catch (error) {
    native.close();
    throw error;
  }
}

function checkDatabase(path: string, native: NativeDatabase): void {
  const found = failing(path, () => {
    const check = native.prepare("PRAGMA integrity_check(1)");
    const [row] = check.all() as SqlRow[];
    check.finalize?.();
    return row?.["integrity_check"];
  });
  if (found !== "ok") throw new NydusError("EUCLEAN", `Cannot open database: ${found ?? "no answer"}`, { path });
}

function openNative(path: string): NativeDatabase {
  // Not import statements: neither runtime has the other's module, and the executable must load in both.
  const builtin = process.getBuiltinModule as (id: string) => unknown;
  if (runtime() === "bun") {
    const { Database: BunDatabase } = builtin("bun:sqlite") as typeof import("bun:sqlite");
    return new BunDatabase(path, { create: true, strict: true }) as unknown as NativeDatabase;
  }
  const module = builtin("node:sqlite") as { DatabaseSync: new (path: string) => NativeDatabase } | undefined;
  if (module === undefined) throw new NydusError("ENOTSUP", `Cannot open database: ${runtime()} here has no SQLite`);
  return new module.DatabaseSync(path);
}

class Database implements SqlDatabase {
  readonly #path: string;
  readonly #native: NativeDatabase;
  readonly #statements = new Map<string, { readonly statement: SqlStatement; readonly native: NativeStatement }>();
  #isOpen = true;

  constructor(path: string, native: NativeDatabase) {
    this.#path = path;
    this.#native = native;
  }

  exec(sql: string): void {
    failing(this.#path, () => this.#native.exec(sql));
  }

  statement(sql: string): SqlStatement {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known.statement;
    const path = this.#path;
    const native = failing(path, () => this.#native.prepare(sql));
    const made: SqlStatement = {
      run: (...values) => {
        const { changes, lastInsertRowid } = failing(path, () => native.run(...values));
        return { changes: Number(changes), lastId: Number(lastInsertRowid) };
      },
      get: (...values) => (failing(path, () => native.get(...values)) ?? undefined) as SqlRow | undefined,
      all: (...values) => failing(path, () => native.all(...values)) as SqlRow[],
    };
    this.#statements.set(sql, { statement: made, native });
    return made;
  }

  transaction<T>(change: () => T): T {
    this.exec("BEGIN IMMEDIATE");
    try {
      const result = change();
      this.exec("COMMIT");
      return result;
    } catch (error) {
      this.#rollBack();
      throw error;
    }
  }

  #rollBack(): void {
    try {
      this.#native.exec("ROLLBACK");
    } catch {
      // SQLite has rolled back by itself, as it does where the disk is full
    }
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const { native } of this.#statements.values()) native.finalize?.();
    this.#native.close();
  }
}

/** Primary result codes of SQLite. @see https://sqlite.org/rescode.html */
const CODES: Readonly<Record<number, ErrorCode>> = {
  1: "EFAULT", // a statement that is wrong
  3: "EPERM",
  5: "EBUSY",
  6: "EBUSY",
  8: "EPERM",
  11: "EUCLEAN",
  13: "ENOSPC",
  14: "EIO",
  19: "EEXIST",
  26: "EUCLEAN",
};
const PRIMARY_CODE_MASK = 0xff;

function failing<T>(path: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (error instanceof NydusError) throw error.within({ path });
    const { errno, errcode, message } = error as { errno?: unknown; errcode?: unknown; message?: unknown };
    const number = typeof errno === "number" ? errno : errcode;
    if (typeof number !== "number") throw asNydusError(error, { path });
    const code = CODES[number & PRIMARY_CODE_MASK] ?? "EIO";
    throw new NydusError(code, `Cannot use database: ${String(message)}`, { path }, { cause: error });
  }
}
