/**
 * Members of a gzip file: the header before a deflate stream, the trailer behind it, and what may follow the last.
 * @see RFC 1952 section 2.3
 */
import { CHECKSUM, CORRUPT, OK } from "./abi";
import { crc32Byte } from "./crc32";
import {
  BLOCK,
  CHECK,
  COMMENT,
  EXTRA,
  EXTRA_SIZE,
  FLAGS,
  HEADER_CHECK,
  HEADER_CRC,
  HISTORY,
  INDEX,
  INPUT,
  INPUT_END,
  LEFT,
  MEMBER,
  MEMBERS,
  MODE,
  MORE_INPUT,
  NAME,
  OUTPUT,
  PADDING,
  TOTAL,
  TRAILER_CRC,
  TRAILER_SIZE,
  UNCHECKED,
  WINDOW_SIZE,
  need,
  take,
} from "./inflate-state";

const ID1: u32 = 0x1f;
const ID2: u32 = 0x8b;
const CM_DEFLATE: u32 = 8;
/** FLG. */
const FHCRC: u32 = 2;
const FEXTRA: u32 = 4;
const FNAME: u32 = 8;
const FCOMMENT: u32 = 16;
const FLAGS_RESERVED: u32 = 0xe0;
/** ID1, ID2, CM, FLG, MTIME, XFL, OS. */
const FIXED_BYTES: u32 = 10;

/** Goes on with the first field of the header, from `field` on, that its flags have. */
function enterField(s: usize, field: u32): void {
  const flags = load<u32>(s, FLAGS);
  let mode = field;
  if (mode == EXTRA_SIZE && (flags & FEXTRA) == 0) mode = NAME;
  if (mode == NAME && (flags & FNAME) == 0) mode = COMMENT;
  if (mode == COMMENT && (flags & FCOMMENT) == 0) mode = HEADER_CRC;
  if (mode == HEADER_CRC && (flags & FHCRC) == 0) mode = BLOCK;
  store<u32>(s, mode, MODE);
  store<u32>(s, 0, INDEX);
}

/** Takes a byte of the ten that every header has. */
function takeFixedByte(s: usize, index: u32, byte: u32): i32 {
  if (index == 0 && byte != ID1) return CORRUPT;
  if (index == 1 && byte != ID2) return CORRUPT;
  if (index == 2 && byte != CM_DEFLATE) return CORRUPT;
  if (index == 3) {
    if ((byte & FLAGS_RESERVED) != 0) return CORRUPT;
    store<u32>(s, byte, FLAGS);
  }
  if (index + 1 == FIXED_BYTES) enterField(s, EXTRA_SIZE);
  return OK;
}

/** Takes a byte of the header's field `mode`. @returns OK or CORRUPT */
function takeFieldByte(s: usize, mode: u32, byte: u32): i32 {
  const index = load<u32>(s, INDEX);
  store<u32>(s, index + 1, INDEX);
  if (mode == MEMBER) return takeFixedByte(s, index, byte);
  if (mode == EXTRA_SIZE) {
    const size = index == 0 ? byte : load<u32>(s, LEFT) | (byte << 8);
    store<u32>(s, size, LEFT);
    if (index == 1) enterField(s, size == 0 ? NAME : EXTRA);
  } else if (mode == EXTRA) {
    if (index + 1 == load<u32>(s, LEFT)) enterField(s, NAME);
  } else if (byte == 0) {
    enterField(s, mode + 1);
  }
  return OK;
}

/** Begins a member. */
function beginMember(s: usize): void {
  store<u32>(s, 0, HEADER_CHECK);
  store<u32>(s, 0, CHECK);
  store<u32>(s, 0, TOTAL);
  store<u32>(s, 0, WINDOW_SIZE);
  store<u32>(s, load<u32>(s, OUTPUT), HISTORY);
  store<u32>(s, load<u32>(s, OUTPUT), UNCHECKED);
}

function checkHeader(s: usize): i32 {
  if (!need(s, 16)) return MORE_INPUT;
  if (take(s, 16) != (load<u32>(s, HEADER_CHECK) & 0xffff)) return CHECKSUM;
  store<u32>(s, BLOCK, MODE);
  return OK;
}

/** Does the next step of a member's header. @returns OK to go on, MORE_INPUT or a fault */
export function stepHeader(s: usize, mode: u32): i32 {
  if (mode == HEADER_CRC) return checkHeader(s);
  if (!need(s, 8)) return MORE_INPUT;
  const byte = take(s, 8);
  if (mode == MEMBER && load<u32>(s, INDEX) == 0) {
    if (byte == 0 && load<u32>(s, MEMBERS) != 0) {
      store<u32>(s, PADDING, MODE);
      return OK;
    }
    beginMember(s);
  }
  store<u32>(s, crc32Byte(byte, load<u32>(s, HEADER_CHECK)), HEADER_CHECK);
  return takeFieldByte(s, mode, byte);
}

/** Passes over zeros behind the last member; other bytes there are no member and no padding. */
function skipPadding(s: usize): i32 {
  const end = <usize>load<u32>(s, INPUT_END);
  for (let input = <usize>load<u32>(s, INPUT); input < end; input++) {
    if (load<u8>(input) != 0) return CORRUPT;
  }
  store<u32>(s, <u32>end, INPUT);
  return MORE_INPUT;
}

/**
 * Does the next step behind a member's deflate stream. Once the trailer is read no bits are held.
 * @returns OK to go on, MORE_INPUT or a fault
 */
export function stepTrailer(s: usize, mode: u32): i32 {
  if (mode == PADDING) return skipPadding(s);
  if (!need(s, 32)) return MORE_INPUT;
  const value = take(s, 32);
  const wanted = mode == TRAILER_CRC ? load<u32>(s, CHECK) : load<u32>(s, TOTAL);
  if (value != wanted) return CHECKSUM;
  if (mode == TRAILER_CRC) {
    store<u32>(s, TRAILER_SIZE, MODE);
  } else {
    store<u32>(s, 1, MEMBERS);
    store<u32>(s, MEMBER, MODE);
    store<u32>(s, 0, INDEX);
  }
  return OK;
}
