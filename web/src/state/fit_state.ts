/** State of the view "Fit": which pictures, how the kernel is fitted, and how gradient descent goes. */

import type { Reader, Writer } from "./fields";

export const FIT_SOURCES = ["example", "pictures"] as const;
export type FitSource = (typeof FIT_SOURCES)[number];
export const FIT_METHODS = ["lstsq", "gd", "momentum", "adam", "lbfgs"] as const;
export type FitMethod = (typeof FIT_METHODS)[number];
export const FIT_PADDINGS = ["valid", "same"] as const;
export const FIT_MODES = ["zeros", "reflect", "symmetric", "replicate", "circular"] as const;
export const FIT_ERRORS = ["white", "jackknife"] as const;
export const FIT_NANS = ["refuse", "omit"] as const;

/** Known kernels of example pairs: presets of `convolith.kernels` and their arguments; they keep a picture's range. */
export const FIT_EXAMPLES = {
  motion: { preset: "motion", arguments: { length: 5, angle: 30 } },
  gaussian: { preset: "gaussian", arguments: { sigma: 1, size: 5 } },
  disk: { preset: "disk", arguments: { radius: 2 } },
} as const;
export type FitExample = keyof typeof FIT_EXAMPLES;

export interface FitState {
  /** Whether the page makes the second picture by a known kernel, or both pictures are given. */
  readonly source: FitSource;
  readonly example: FitExample;
  /** Name of the bundled picture of the example; empty for the first that suits. */
  readonly picture: string;
  /** Names or identifiers of given pictures; empty for none yet. */
  readonly before: string;
  readonly after: string;
  readonly size: readonly [rows: number, columns: number] | "auto";
  readonly method: FitMethod;
  /** Learning rate, or null for one that is chosen. */
  readonly rate: number | null;
  readonly steps: number;
  readonly seed: number;
  readonly padding: (typeof FIT_PADDINGS)[number];
  readonly mode: (typeof FIT_MODES)[number];
  readonly offset: boolean;
  readonly ridge: number | "auto";
  readonly errors: (typeof FIT_ERRORS)[number];
  /** Residual from which on the loss of a descent is linear, or null for squares. */
  readonly huber: number | null;
  readonly nan: (typeof FIT_NANS)[number];
}

export const FIT_BOUNDS = {
  size: [1, 31],
  steps: [1, 20_000],
  seed: [0, 2 ** 31],
  rate: [1e-300, 1e300],
  ridge: [0, 1e30],
  huber: [1e-30, 1e30],
} as const;

/** Size of a kernel where none was chosen. */
export const USUAL_SIZE: readonly [number, number] = [7, 7];

/** The example that a newcomer sees: a picture, blurred by a motion, and gradient descent on its way to the closed form. */
export const FIRST_FIT: FitState = {
  source: "example",
  example: "motion",
  picture: "",
  before: "",
  after: "",
  size: USUAL_SIZE,
  method: "gd",
  rate: null,
  steps: 200,
  seed: 0,
  padding: "valid",
  mode: "zeros",
  offset: false,
  ridge: 0,
  errors: "white",
  huber: null,
  nan: "refuse",
};

export const isDescent = (method: FitMethod): boolean => method !== "lstsq";

/**
 * Return the state with a change, and what no longer goes with it replaced by the nearest that does.
 *
 * Sizes and ridges that are chosen by the data, and errors by the jackknife, belong to the closed form; learning rates
 * and Huber's loss to a descent.
 */
export function withFit(state: FitState, change: Partial<FitState>): FitState {
  const next = { ...state, ...change };
  if (!isDescent(next.method)) return { ...next, rate: null, huber: null };
  return {
    ...next,
    size: next.size === "auto" ? USUAL_SIZE : next.size,
    ridge: next.ridge === "auto" ? 0 : next.ridge,
    errors: "white",
  };
}

const NAME = /^[\w-]{1,64}$/;

function readName(reader: Reader, key: string): string {
  const text = reader.text(key);
  if (text === null || NAME.test(text)) return text ?? "";
  reader.refuse(key, "the name of a picture");
  return "";
}

/** Read a number within bounds, or one of the words. */
function readNumber<T extends string | null>(
  reader: Reader,
  key: string,
  usual: number | T,
  [least, most]: readonly [number, number],
  word?: T & string,
): number | T {
  const text = reader.text(key);
  if (text === null) return usual;
  if (word !== undefined && text === word) return word;
  const value = /^\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN;
  if (value >= least && value <= most) return value;
  reader.refuse(key, `a number from ${least} to ${most}${word ? ` or ${word}` : ""}`);
  return usual;
}

export function readFitState(reader: Reader): FitState {
  const usual = FIRST_FIT;
  const method = reader.choice("fit.method", FIT_METHODS, usual.method);
  const descends = isDescent(method);
  const auto = reader.text("fit.size") === "auto";
  if (auto && descends) reader.refuse("fit.size", "two numbers joined by x for a descent (auto needs fit.method=lstsq)");
  const size = auto ? (descends ? USUAL_SIZE : "auto") : reader.wholes("fit.size", USUAL_SIZE, FIT_BOUNDS.size);
  const only = <T>(key: string, applies: boolean, other: T, read: () => T, where: string): T => {
    if (applies) return read();
    if (reader.text(key) !== null) reader.refuse(key, `no such field ${where}`);
    return other;
  };
  const closed = "with a descent";
  const state: FitState = {
    source: reader.choice("fit.source", FIT_SOURCES, usual.source),
    example: reader.choice("fit.example", Object.keys(FIT_EXAMPLES) as FitExample[], usual.example),
    picture: readName(reader, "fit.picture"),
    before: readName(reader, "fit.before"),
    after: readName(reader, "fit.after"),
    size: size as FitState["size"],
    method,
    rate: only("fit.rate", descends, null, () => readNumber(reader, "fit.rate", null, FIT_BOUNDS.rate), "with the closed form"),
    steps: reader.whole("fit.steps", usual.steps, FIT_BOUNDS.steps),
    seed: reader.whole("fit.seed", usual.seed, FIT_BOUNDS.seed),
    padding: reader.choice("fit.padding", FIT_PADDINGS, usual.padding),
    mode: reader.choice("fit.mode", FIT_MODES, usual.mode),
    offset: reader.flag("fit.offset"),
    ridge: readNumber<"auto">(reader, "fit.ridge", usual.ridge, FIT_BOUNDS.ridge, "auto"),
    errors: only("fit.errors", !descends, "white", () => reader.choice("fit.errors", FIT_ERRORS, usual.errors), closed),
    huber: only("fit.huber", descends, null, () => readNumber(reader, "fit.huber", null, FIT_BOUNDS.huber), "with the closed form"),
    nan: reader.choice("fit.nan", FIT_NANS, usual.nan),
  };
  if (descends && state.ridge === "auto") reader.refuse("fit.ridge", "a number for a descent (auto needs fit.method=lstsq)");
  return withFit(state, {});
}

export function writeFitState(state: FitState, writer: Writer): void {
  const usual = FIRST_FIT;
  const text = (value: string | number | null): string => (value === null ? "" : String(value).replace("+", ""));
  writer.put("fit.source", state.source, usual.source);
  writer.put("fit.example", state.example, usual.example);
  writer.put("fit.picture", state.picture, usual.picture);
  writer.put("fit.before", state.before, usual.before);
  writer.put("fit.after", state.after, usual.after);
  writer.put("fit.size", state.size === "auto" ? "auto" : state.size.join("x"), USUAL_SIZE.join("x"));
  writer.put("fit.method", state.method, usual.method);
  writer.put("fit.rate", text(state.rate), "");
  writer.wholes("fit.steps", [state.steps], [usual.steps]);
  writer.wholes("fit.seed", [state.seed], [usual.seed]);
  writer.put("fit.padding", state.padding, usual.padding);
  writer.put("fit.mode", state.mode, usual.mode);
  writer.put("fit.offset", state.offset ? "1" : "0", "0");
  writer.put("fit.ridge", text(state.ridge), text(usual.ridge));
  writer.put("fit.errors", state.errors, usual.errors);
  writer.put("fit.huber", text(state.huber), "");
  writer.put("fit.nan", state.nan, usual.nan);
}
