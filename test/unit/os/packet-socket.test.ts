import { expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { listenToSocket, MessageReader, packetPair, packetsOf, sendMessage } from "../../../src/os/packet-socket.ts";
import { hasLibc } from "../../../src/os/syscall.ts";

const descriptors = (): number => readdirSync("/proc/self/fd").length;

test("packetsOf() cuts a message so that each packet fits, and marks the last", () => {
  const text = `${"ä".repeat(50_000)}z`;
  const packets = packetsOf(text);
  expect(packets.map((packet) => packet[0])).toEqual([1, 1, 1, 0]);
  expect(Math.max(...packets.map(({ length }) => length))).toBeLessThanOrEqual(32 * 1024 + 1);
  expect(Buffer.concat(packets.map((packet) => packet.subarray(1))).toString()).toBe(text);
  expect(packetsOf("")).toEqual([new Uint8Array([0])]);
});

test.skipIf(!hasLibc())("messages come whole and in order, each with its descriptor, though the sender is gone", () => {
  const before = descriptors();
  const [ours, theirs] = packetPair();
  const reader = new MessageReader(theirs);
  expect(reader.next()).toBe("none");
  const file = openSync("/proc/version", "r");
  const long = "é".repeat(40_000);
  sendMessage(ours, "first");
  sendMessage(ours, long, file);
  sendMessage(ours, "last");
  closeSync(file);
  closeSync(ours);
  expect(reader.next()).toEqual({ text: "first", fd: undefined });
  const second = reader.next();
  if (typeof second === "string" || second.fd === undefined) throw new Error("no descriptor has come");
  expect(second.text).toBe(long);
  expect(readFileSync(second.fd, "utf8")).toBe(readFileSync("/proc/version", "utf8"));
  closeSync(second.fd);
  expect(reader.next()).toEqual({ text: "last", fd: undefined });
  expect([reader.next(), reader.next()]).toEqual(["closed", "closed"]);
  closeSync(theirs);
  expect(descriptors()).toBe(before);
});

test.skipIf(!hasLibc())("what is sent to nobody says so", () => {
  const [ours, theirs] = packetPair();
  closeSync(theirs);
  expect(sendMessage(ours, "x")).toBe(false);
  closeSync(ours);
});

test.skipIf(!hasLibc())(
  "who does not listen is found out",
  () => {
    const [ours, theirs] = packetPair();
    expect(() => {
      for (let i = 0; i < 10_000; i++) sendMessage(ours, "x".repeat(1000));
    }).toThrow("EAGAIN");
    closeSync(ours);
    closeSync(theirs);
  },
  10_000,
);

test.skipIf(!hasLibc())("listenToSocket() hears messages and the end", async () => {
  const [ours, theirs] = packetPair();
  const heard: string[] = [];
  await new Promise<void>((resolve) => {
    listenToSocket(ours, (text) => heard.push(text), resolve);
    sendMessage(theirs, "one\n");
    sendMessage(theirs, "two\n");
    closeSync(theirs);
  });
  expect(heard.join("")).toBe("one\ntwo\n");
  closeSync(ours);
});
