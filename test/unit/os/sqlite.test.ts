import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../src/base/errors.ts";
import { openDatabase } from "../../../src/os/sqlite.ts";

let dir = "";
let path = "";

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-sqlite-"));
  path = join(dir, "x.sqlite");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
  return "nothing";
}

const TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, size INTEGER)";
const INSERT = "INSERT INTO t (name, size) VALUES (?, ?)";

describe("openDatabase()", () => {
  test("what was committed is there after it is opened again", () => {
    {
      using db = openDatabase(path);
      db.exec(TABLE);
      const inserted = db.transaction(() => db.statement(INSERT).run("a", 2 ** 53 - 1));
      expect(inserted).toEqual({ changes: 1, lastId: 1 });
    }
    using db = openDatabase(path);
    expect(db.statement("SELECT * FROM t WHERE name = ?").get("a")).toEqual({ id: 1, name: "a", size: 2 ** 53 - 1 });
    expect(db.statement("SELECT * FROM t WHERE name = ?").get("b")).toBeUndefined();
    expect(db.statement("SELECT name FROM t").all()).toEqual([{ name: "a" }]);
  });

  test("a transaction that throws leaves nothing, and the next one works", () => {
    using db = openDatabase(path);
    db.exec(TABLE);
    const fails = (): void => {
      db.transaction(() => {
        db.statement(INSERT).run("a", 1);
        throw new NydusError("EIO", "enough");
      });
    };
    expect(fails).toThrow("enough");
    expect(db.statement("SELECT * FROM t").all()).toEqual([]);
    db.transaction(() => db.statement(INSERT).run("b", 2));
    expect(db.statement("SELECT count(*) AS n FROM t").get()).toEqual({ n: 1 });
  });

  test("failures have our codes", () => {
    using db = openDatabase(path);
    db.exec(TABLE);
    db.statement(INSERT).run("a", 1);
    expect(codeOf(() => db.statement(INSERT).run("a", 1))).toBe("EEXIST");
    expect(codeOf(() => db.statement("SELECT nothing FROM t"))).toBe("EFAULT");
    expect(codeOf(() => openDatabase(path))).toBe("EBUSY");
    expect(codeOf(() => openDatabase(join(dir, "none", "x.sqlite")))).toBe("EIO");
    db.exec("PRAGMA max_page_count = 8");
    const fill = (): void => {
      for (let i = 0; i < 100; i++) db.statement(INSERT).run(`${i}${"x".repeat(4000)}`, 1);
    };
    expect(codeOf(() => db.transaction(fill))).toBe("ENOSPC");
    expect(db.statement("SELECT count(*) AS n FROM t").get()).toEqual({ n: 1 });
  });

  test("closing frees it at once, also twice", () => {
    const db = openDatabase(path);
    db.exec(TABLE);
    db.statement("SELECT * FROM t").all();
    db[Symbol.dispose]();
    db[Symbol.dispose]();
    openDatabase(path)[Symbol.dispose]();
  });

  test.each([
    ["noise", (file: string) => writeFileSync(file, Buffer.alloc(9000, 0x5a))],
    ["a file that was cut off", (file: string) => truncateSync(file, 5000)],
    [
      "a page of zeros",
      (file: string) => {
        const bytes = readFileSync(file);
        writeFileSync(file, bytes.fill(0, 4096, 8192));
      },
    ],
  ])("%s is no database", (_, damage) => {
    {
      using db = openDatabase(path);
      db.exec(TABLE);
      for (let i = 0; i < 500; i++) db.statement(INSERT).run(`name ${i}`, i);
    }
    damage(path);
    expect(codeOf(() => openDatabase(path))).toBe("EUCLEAN");
  });

  test("a file that is empty is a new database", () => {
    writeFileSync(path, "");
    using db = openDatabase(path);
    db.exec(TABLE);
  });
});
