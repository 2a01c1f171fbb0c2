/** A view's board from its arrays and from what explains their cells, and products as lines of a sum. */

import { computed, type ReadonlySignal } from "@preact/signals";
import { type Product, type Tensor, valueAt } from "../core";
import type { Cell } from "../state";
import { sameCell } from "../state";
import { active, pointAt, pointedTerm, setPin, state } from "../state/store";
import { type Board, type Explanation, type GridModel, type Line, litCells, type Term } from "../parts/board";

export function makeBoard(
  grids: ReadonlySignal<ReadonlyMap<string, GridModel>>,
  first: () => Cell,
  explain: (cell: Cell) => Explanation | null,
): Board {
  const explanation = computed(() => {
    if (!grids.value.size) return null;
    const cell = active.value;
    return explain(cell && holds(grids.value, cell) ? cell : first());
  });
  const valueOf = (cell: Cell): number => valueAt(grids.value.get(cell.grid)!.values, cell.at);
  return {
    grids,
    explanation,
    lit: computed(() => litCells(explanation.value, pointedTerm.value, valueOf)),
    pointAt,
    togglePin: (cell) => {
      pointAt(cell);
      setPin(sameCell(state.value.pin, cell) ? null : cell);
    },
    unpin: () => setPin(null),
  };
}

/** Arrays by name; cells need their shapes only. */
export type Grids = ReadonlyMap<string, { readonly values: Pick<Tensor, "shape"> }>;

/** Return whether a cell is one of the arrays'. */
export function holds(grids: Grids, cell: Cell): boolean {
  const shape = grids.get(cell.grid)?.values.shape;
  return shape !== undefined && shape.length === cell.at.length && shape.every((n, axis) => cell.at[axis]! < n);
}

/** Return the products as lines, one for each value of an index. */
export function linesBy(
  products: readonly Product[],
  key: (product: Product) => number,
  label: (key: number) => string,
  term: (product: Product) => Term,
): Line[] {
  const lines = new Map<number, Term[]>();
  for (const product of products) {
    const place = key(product);
    const terms = lines.get(place) ?? [];
    terms.push(term(product));
    lines.set(place, terms);
  }
  return [...lines].map(([place, terms]) => ({ label: label(place), terms }));
}
