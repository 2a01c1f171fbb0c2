/** The page's state as an address fragment: `#v=1&view=look&...`, with only what differs from the first state. */

import { FIRST_COMPUTE, readComputeState, writeComputeState } from "./compute_state";
import { FIRST_COST, readCostState, writeCostState } from "./cost_state";
import { FIRST_FIELD, readFieldState, writeFieldState } from "./field_state";
import { Reader, Writer } from "./fields";
import { FIRST_FIT, readFitState, writeFitState } from "./fit_state";
import { FIRST_FOLD, readFoldState, writeFoldState } from "./fold_state";
import { CHAPTER, readLayerState, writeLayerState } from "./layer_state";
import { FIRST_NETWORK, readNetworkState, writeNetworkState } from "./network_state";
import { FIRST_QUIZ, readQuizState, writeQuizState } from "./quiz_state";

export const VERSION = "1";
export const VIEWS = ["look", "backward", "fold", "cost", "field", "quiz", "compute", "fit", "network"] as const;
export type View = (typeof VIEWS)[number];

/** One element of one of a view's arrays. */
export interface Cell {
  readonly grid: string;
  readonly at: readonly number[];
}

/** A part of the state with fields of its own in the address: how it begins, is read and is written. */
interface Part<T> {
  readonly first: T;
  readonly read: (reader: Reader) => T;
  readonly write: (value: T, writer: Writer) => void;
}

function part<T>(first: T, read: Part<T>["read"], write: Part<T>["write"]): Part<T> {
  return { first, read, write };
}

const PARTS = {
  layer: part(CHAPTER, readLayerState, writeLayerState),
  fold: part(FIRST_FOLD, readFoldState, writeFoldState),
  cost: part(FIRST_COST, readCostState, writeCostState),
  field: part(FIRST_FIELD, readFieldState, writeFieldState),
  quiz: part(FIRST_QUIZ, readQuizState, writeQuizState),
  compute: part(FIRST_COMPUTE, readComputeState, writeComputeState),
  fit: part(FIRST_FIT, readFitState, writeFitState),
  network: part(FIRST_NETWORK, readNetworkState, writeNetworkState),
};

type PartName = keyof typeof PARTS;
export type Parts = { readonly [Name in PartName]: (typeof PARTS)[Name] extends Part<infer T> ? T : never };

export interface State extends Parts {
  readonly view: View;
  readonly pin: Cell | null;
}

const NAMES = Object.keys(PARTS) as PartName[];

function everyPart(value: (name: PartName) => unknown): Parts {
  return Object.fromEntries(NAMES.map((name) => [name, value(name)])) as unknown as Parts;
}

export const FIRST: State = { view: "look", pin: null, ...everyPart((name) => PARTS[name].first) };

const LONGEST = 60_000;

/** Read a fragment; whatever is wrong in it is replaced by what is usual, and said in words. */
export function readAddress(fragment: string): { state: State; problems: string[] } {
  const text = fragment.replace(/^#/, "");
  if (!text) return { state: FIRST, problems: [] };
  if (text.length > LONGEST) {
    return {
      state: FIRST,
      problems: [`The address has ${text.length} characters; expected at most ${LONGEST}. The first state is shown.`],
    };
  }
  const entries = new Map<string, string>();
  const problems: string[] = [];
  for (const part of text.split("&")) {
    const [key, ...value] = part.split("=");
    try {
      const name = decodeURIComponent(key!);
      if (entries.has(name)) problems.push(`“${name.slice(0, 40)}” stands twice in the address; the first is used.`);
      else entries.set(name, decodeURIComponent(value.join("=")));
    } catch {
      problems.push(`“${part.slice(0, 40)}” in the address cannot be decoded, and is ignored.`);
    }
  }
  const reader = new Reader(entries);
  const version = reader.text("v");
  if (version !== VERSION) {
    const written = version === null ? "without a version" : `by version ${version.slice(0, 20)} of this page`;
    return {
      state: FIRST,
      problems: [`The address was written ${written}; this is version ${VERSION}. The first state is shown.`],
    };
  }
  const state: State = {
    view: reader.choice("view", VIEWS, "look"),
    ...everyPart((name) => PARTS[name].read(reader)),
    pin: readCell(reader),
  };
  reader.finish();
  return { state, problems: [...problems, ...reader.problems] };
}

function readCell(reader: Reader): Cell | null {
  const text = reader.text("pin");
  if (text === null) return null;
  const match = /^([a-z]{1,3}\d?)((?:\.\d{1,4}){1,4})$/i.exec(text);
  if (!match) {
    reader.refuse("pin", "an array and its indices, such as y.0.1.1");
    return null;
  }
  return { grid: match[1]!, at: match[2]!.slice(1).split(".").map(Number) };
}

export function writeAddress(state: State): string {
  const writer = new Writer();
  writer.put("view", state.view, "look");
  for (const name of NAMES) (PARTS[name] as Part<unknown>).write(state[name], writer);
  if (state.pin) writer.put("pin", cellText(state.pin), "");
  if (!writer.entries.size) return "";
  return `#v=${VERSION}&${[...writer.entries].map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&")}`;
}

export function cellText(cell: Cell): string {
  return [cell.grid, ...cell.at].join(".");
}

export function sameCell(a: Cell | null, b: Cell | null): boolean {
  return a === b || (a !== null && b !== null && cellText(a) === cellText(b));
}
