import { type ImageProgress, NO_PROGRESS, type ProgressLayer } from "../operation/image/progress.ts";
import { printStderr } from "./output.ts";

const REDRAW_MS = 100;
const SHOWN_DIGITS = 12;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** Where progress is drawn; a clock and a pen, so that tests bring their own. */
export interface ProgressScreen {
  readonly isTerminal: boolean;
  /** Columns of the terminal. */
  readonly width: number;
  write(text: string): void;
  /** Milliseconds, from any start. */
  now(): number;
}

/** Progress that ends: `close` leaves the last state of every line on the screen. */
export interface ClosableProgress extends ImageProgress {
  close(): void;
}

interface LayerState {
  readonly layer: ProgressLayer;
  readonly startMs: number;
  readBytes: number;
  done?: string;
}

/** Bytes for a person: `982 B`, `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit]}`;
}

/** The first digits of a digest, as other tools show it. */
export function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, SHOWN_DIGITS);
}

function rate(bytes: number, ms: number): string {
  return `${formatBytes(ms <= 0 ? bytes : (bytes * 1000) / ms)}/s`;
}

/** A line a layer: redrawn in place on a terminal, otherwise one line when it starts and one when it is done. */
class ScreenProgress implements ClosableProgress {
  readonly #screen: ProgressScreen;
  readonly #verb: string;
  readonly #layers = new Map<string, LayerState>();
  #drawnLines = 0;
  #drawnMs = Number.NEGATIVE_INFINITY;

  /** @param verb what is done to layers: "converting" */
  constructor(screen: ProgressScreen, verb: string) {
    this.#screen = screen;
    this.#verb = verb;
  }

  layerStarted(layer: ProgressLayer): void {
    this.#layers.set(layer.digest, { layer, startMs: this.#screen.now(), readBytes: 0 });
    if (this.#screen.isTerminal) this.#redraw(true);
    else this.#line(`layer ${shortDigest(layer.digest)}: ${this.#verb} ${formatBytes(layer.sizeBytes)}`);
  }

  layerAdvanced(layer: ProgressLayer, bytes: number): void {
    const state = this.#layers.get(layer.digest);
    if (state === undefined) return;
    state.readBytes += bytes;
    if (this.#screen.isTerminal) this.#redraw(false);
  }

  layerDone(layer: ProgressLayer, result: { readonly blobBytes: number; readonly reused?: boolean }): void {
    const state = this.#layers.get(layer.digest);
    const ms = state === undefined ? 0 : this.#screen.now() - state.startMs;
    const blob = `blob of ${formatBytes(result.blobBytes)}`;
    const text = result.reused ? `${blob}, there already` : `${blob}, ${rate(layer.sizeBytes, ms)}`;
    if (state !== undefined) state.done = text;
    if (this.#screen.isTerminal) this.#redraw(true);
    else this.#line(`layer ${shortDigest(layer.digest)}: done, ${text}`);
  }

  step(message: string): void {
    this.#erase();
    this.#line(message);
    if (this.#screen.isTerminal) this.#redraw(true);
  }

  close(): void {
    if (this.#screen.isTerminal) this.#redraw(true);
    this.#layers.clear();
    this.#drawnLines = 0;
  }

  #line(text: string): void {
    this.#screen.write(`${text}\n`);
  }

  #erase(): void {
    if (this.#drawnLines > 0) this.#screen.write(`\x1b[${this.#drawnLines}A\x1b[J`);
    this.#drawnLines = 0;
  }

  #redraw(force: boolean): void {
    const now = this.#screen.now();
    if (!force && now - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = now;
    const lines = [...this.#layers.values()].map((state) => layerLine(state, now).slice(0, this.#screen.width - 1));
    this.#erase();
    this.#screen.write(lines.map((line) => `${line}\n`).join(""));
    this.#drawnLines = lines.length;
  }
}

function layerLine({ layer, startMs, readBytes, done }: LayerState, now: number): string {
  const name = `layer ${shortDigest(layer.digest)}`;
  if (done !== undefined) return `${name}  done  ${done}`;
  const percent = layer.sizeBytes === 0 ? 100 : Math.min(100, Math.floor((100 * readBytes) / layer.sizeBytes));
  const bytes = `${formatBytes(readBytes)} of ${formatBytes(layer.sizeBytes)}`;
  return `${name}  ${String(percent).padStart(3)}%  ${bytes}, ${rate(readBytes, now - startMs)}`;
}

/** The terminal that stderr is, if it is one. */
function stderrScreen(): ProgressScreen {
  const { isTTY, columns } = process.stderr;
  return { isTerminal: isTTY === true, width: columns ?? 80, write: printStderr, now: () => performance.now() };
}

/** Progress on stderr; nothing with `quiet`. */
export function openProgress(
  options: { readonly quiet: boolean; readonly verb?: string },
  screen?: ProgressScreen,
): ClosableProgress {
  if (options.quiet) return { ...NO_PROGRESS, close: () => undefined };
  return new ScreenProgress(screen ?? stderrScreen(), options.verb ?? "converting");
}
