/** The signals of the page, and the address that follows them. */

import { computed, effect, signal } from "@preact/signals";
import { type Cell, cellText, FIRST, type Parts, readAddress, type State, type View, writeAddress } from "./address";
import type { FoldState } from "./fold_state";
import { type LayerState, withLayer } from "./layer_state";
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
export const layerState = computed(() => state.value.layer);
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

/** Whether the view that is shown has a cell; given by the views. */
let exists: (cell: Cell) => boolean = () => true;

/** Unpin a cell that the view no longer has, and return whether there was one. */
function dropLostPin(): boolean {
  const { pin } = state.value;
  if (!pin || exists(pin)) return false;
  setPin(null);
  return true;
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
  playing.value = false;
  point.value = null;
  state.value = { ...state.value, view: name, pin: null };
  history.pushState(null, "", address());
}

function address(): string {
  return writeAddress(state.value) || `${location.pathname}${location.search}`;
}

/** Milliseconds without a change before the address follows: browsers refuse more than some 200 changes in 30 seconds. */
const ADDRESS_DELAY = 200;

/** Read the state from the address, now and whenever it changes, and write it there whenever it changes. */
export function followAddress(hasCell: (cell: Cell) => boolean): void {
  exists = hasCell;
  const read = (): void => {
    const found = readAddress(location.hash);
    playing.value = false;
    point.value = null;
    state.value = found.state;
    const { pin } = found.state;
    const lost = dropLostPin() && pin ? [`pin is “${cellText(pin)}” in the address; the view has no such cell.`] : [];
    problems.value = [...found.problems, ...lost];
  };
  read();
  addEventListener("hashchange", read);
  addEventListener("popstate", read);
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
      if (location.hash !== text) history.replaceState(null, "", text || `${location.pathname}${location.search}`);
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
