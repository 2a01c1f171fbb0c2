/** What a figure consists of: arrays as grids of cells, and the products that explain each cell. */

import type { ReadonlySignal } from "@preact/signals";
import type { Tensor } from "../core";
import type { Cell } from "../state";

export interface GridModel {
  /** Name of the array in addresses and cells, such as `x` or `dx`. */
  readonly id: string;
  /** Values, whose last two axes are rows and columns. */
  readonly values: Tensor;
  /** Whether rows have an index of their own; the arrays of a layer on one axis have a single row without one. */
  readonly axes: 1 | 2;
  /** Name of a cell, such as `x[0,1,2]`, or "padding". */
  readonly nameOf: (at: readonly number[]) => string;
  /** Write a value into its cell; with up to three digits by default. */
  readonly write?: (value: number) => string;
  readonly isPadding?: (at: readonly number[]) => boolean;
  /** Store a new value of a cell; absent where values are computed. */
  readonly edit?: ((at: readonly number[], value: number) => void) | undefined;
  /** Return whether a cell takes a new value. */
  readonly takes?: ((at: readonly number[]) => boolean) | undefined;
}

/** One product of a sum; `into` is the result that it is added to, where the products belong to several. */
export interface Term {
  readonly factors: readonly Cell[];
  readonly into?: Cell;
  /** Further cells that show the same numbers, in another figure of the view. */
  readonly also?: readonly Cell[];
}

export interface Line {
  readonly label: string;
  readonly terms: readonly Term[];
}

export interface Explanation {
  readonly cell: Cell;
  /** One sentence on what the cell is. */
  readonly about: string;
  readonly lines: readonly Line[];
  /** What is added to the sum of all products, such as a bias. */
  readonly added?: Cell;
  /** Whether the products add up to the cell's value; if not, they are where the cell is used. */
  readonly isSum: boolean;
}

/** How a cell is marked: explained itself, a part of the explanation, or a factor of the product pointed at. */
export type Mark = "active" | "lit" | "term";

export interface Lit {
  readonly at: readonly number[];
  readonly mark: Mark;
  /** Other factor of its product, where it has a single one. */
  readonly factor?: number | undefined;
}

export interface Board {
  readonly grids: ReadonlySignal<ReadonlyMap<string, GridModel>>;
  readonly explanation: ReadonlySignal<Explanation | null>;
  /** Marked cells by panel, whose key is `panelKey` of the grid and its leading indices. */
  readonly lit: ReadonlySignal<ReadonlyMap<string, readonly Lit[]>>;
  readonly pointAt: (cell: Cell, moved?: boolean) => void;
  readonly togglePin: (cell: Cell) => void;
  readonly unpin: () => void;
}

export function panelKey(grid: string, leading: readonly number[]): string {
  return [grid, ...leading].join(".");
}

/** Return the marked cells of an explanation by panel, with the product that is pointed at. */
export function litCells(
  explanation: Explanation | null,
  pointed: number | null,
  valueOf: (cell: Cell) => number,
): Map<string, Lit[]> {
  const panels = new Map<string, Map<string, Lit>>();
  const put = (cell: Cell, mark: Mark, factor?: number): void => {
    const key = panelKey(cell.grid, cell.at.slice(0, -2));
    let panel = panels.get(key);
    if (!panel) panels.set(key, (panel = new Map()));
    const place = cell.at.slice(-2).join(".");
    const before = panel.get(place);
    const shown = before && before.factor !== factor ? undefined : factor;
    panel.set(place, { at: cell.at, mark: before && before.mark !== "lit" ? before.mark : mark, factor: shown });
  };
  if (!explanation) return new Map();
  put(explanation.cell, "active");
  const terms = explanation.lines.flatMap((line) => line.terms);
  const several = explanation.cell.grid;
  terms.forEach((term, position) => {
    const mark: Mark = position === pointed ? "term" : "lit";
    const [first, second] = term.factors;
    for (const factor of term.factors) {
      if (factor.grid === several) continue;
      const partner = factor === first ? second : undefined;
      put(factor, mark, explanation.isSum && partner && partner.grid !== several ? valueOf(partner) : undefined);
    }
    if (term.into) put(term.into, mark);
    for (const cell of term.also ?? []) put(cell, mark);
  });
  if (explanation.added) put(explanation.added, "lit");
  return new Map([...panels].map(([key, panel]) => [key, [...panel.values()]]));
}
