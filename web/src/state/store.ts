/** The signals of the page, and the address that follows them. */

import { computed, effect, signal } from "@preact/signals";
import { type Cell, cellText, FIRST, type Parts, readAddress, type State, type View, writeAddress } from "./address";
import type { FieldState } from "./field_state";
import { type FitState, withFit } from "./fit_state";
import type { BlockState, FoldState } from "./fold_state";
import { type LayerState, withLayer } from "./layer_state";
import { type NetworkState, withNetwork } from "./network_state";
import type { Layer } from "../core";

export const state = signal<State>(FIRST);
/** What was wrong with the address, in words. */
export const problems = signal<readonly string[]>([]);
/** Element that was last pointed at. */
export const point = signal<Cell | null>(null);
/** Position in the list of products of the one that is pointed at. */
export const pointedTerm = signal<number | null>(null);
export const playing = signal(false);

export const view = computed(() => state.value.view);
export const foldState = computed(() => state.value.fold);
export const costState = computed(() => state.value.cost);
export const fieldState = computed(() => state.value.field);
export const fitState = computed(() => state.value.fit);
export const networkState = computed(() => state.value.network);
export const layerState = computed(() => state.value.layer);
export const quizState = computed(() => state.value.quiz);
export const computeState = computed(() => state.value.compute);
/** Element that is explained: the pinned one, or else the one last pointed at. */
export const active = computed(() => state.value.pin ?? point.value);

/** Change fields of a part of the state; a pin is lost with its cell. */
export function setPart<Name extends keyof Parts>(name: Name, change: Partial<Parts[Name]>): void {
  state.value = { ...state.value, [name]: { ...state.value[name], ...change } };
  dropLostPin();
}

export function setLayerState(change: Partial<LayerState>): void {
  setPart("layer", change);
}

export function setLayer(change: Partial<Layer>): void {
  setLayerState(withLayer(state.value.layer, change));
}

export function setFold(change: Partial<FoldState>): void {
  setPart("fold", change);
}

/** Change a convolution of the view "Fold". */
export function setBlock(place: number, change: Partial<BlockState>): void {
  setFold({ blocks: state.value.fold.blocks.map((block, n) => (n === place ? { ...block, ...change } : block)) });
}

export function setField(change: Partial<FieldState>): void {
  setPart("field", change);
}

export function setFit(change: Partial<FitState>): void {
  setPart("fit", withFit(state.value.fit, change));
}

export function setNetwork(change: Partial<NetworkState>): void {
  setPart("network", withNetwork(state.value.network, change));
}

/** Whether the view that is shown has a cell; given by the views. */
let exists: (cell: Cell) => boolean = () => true;

/** Unpin a cell that the view does not have, and return it, or null. */
function dropLostPin(): Cell | null {
  const { pin } = state.value;
  if (!pin || exists(pin)) return null;
  setPin(null);
  return pin;
}

/** Unpin a cell of the address that the view does not have, and say so; called again when the view's code is there. */
export function checkPin(): void {
  const lost = dropLostPin();
  if (lost) problems.value = [...problems.value, `pin is “${cellText(lost)}” in the address; the view has no such cell.`];
}

export function setPin(pin: Cell | null): void {
  state.value = { ...state.value, pin };
}

/** Point at an element; if one is pinned, the pin stays, unless `moved` says that it moves along. */
export function pointAt(cell: Cell, moved = false): void {
  pointedTerm.value = null;
  point.value = cell;
  if (moved && state.value.pin) setPin(cell);
}

export function showView(name: View): void {
  goTo({ view: name });
}

/** Show another state; the browser's back button returns to the present one. */
export function goTo(change: Partial<State>): void {
  playing.value = false;
  point.value = null;
  state.value = { ...state.value, pin: null, ...change };
  if (!embedded) history.pushState(null, "", writeAddress(state.value) || bare());
}

/** Return the address of the present state with a change. */
export function addressOf(change: Partial<State>): string {
  return writeAddress({ ...state.value, pin: null, ...change });
}

/**
 * Whether the page is in a frame without an address, in a notebook or a report: the frame's name is then the first state,
 * and messages to and from the page around it take the place of the address.
 */
export const embedded = location.protocol === "about:";

/** Return the address of the first state. */
function bare(): string {
  return `${location.pathname}${location.search}`;
}

/** Milliseconds without a change before the address follows: browsers refuse more than some 200 changes in 30 seconds. */
const ADDRESS_DELAY = 200;

/** Read the state from the address, now and whenever it changes, and write it there whenever it changes. */
export function followAddress(hasCell: (cell: Cell) => boolean): void {
  exists = hasCell;
  let shown = embedded ? window.name : "";
  const read = (): void => {
    const found = readAddress(embedded ? shown : location.hash);
    playing.value = false;
    point.value = null;
    state.value = found.state;
    problems.value = found.problems;
    checkPin();
  };
  read();
  addEventListener("hashchange", read);
  addEventListener("popstate", read);
  addEventListener("message", ({ source, data }) => {
    if (!embedded || source !== parent || typeof data?.convolith !== "string") return;
    shown = data.convolith;
    read();
  });
  let timer = 0;
  let first = true;
  effect(() => {
    const text = writeAddress(state.value);
    if (first) {
      first = false;
      return;
    }
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (embedded) parent.postMessage({ convolith: text }, "*");
      else if (location.hash !== text) history.replaceState(null, "", text || bare());
    }, ADDRESS_DELAY);
  });
}

export type Theme = "auto" | "light" | "dark";
export const theme = signal<Theme>("auto");

/** Apply the chosen colours, and remember them where the browser allows it. */
export function followTheme(): void {
  try {
    const stored = localStorage.getItem("convolith-theme");
    if (stored === "light" || stored === "dark") theme.value = stored;
  } catch {
    // a browser that keeps nothing: the colours follow the system
  }
  effect(() => {
    document.documentElement.dataset["theme"] = theme.value;
    try {
      localStorage.setItem("convolith-theme", theme.value);
    } catch {
      // as above
    }
  });
}
