/** What the view "Field" shows, computed once for each net and for each output pixel. */

import { computed, signal } from "@preact/signals";
import { type AxisField, axisField, type Chain, chainOf, drawnSpan, type MapField, mapField, paddingOf, type Span } from "../../core";
import { type Cell, fieldRefusal } from "../../state";
import { active, fieldState } from "../../state/store";
import { type Grids, holds } from "../make_board";

export type Pixel = readonly [row: number, column: number];

/** Why nothing is drawn, or null. */
export const fieldRefused = computed(() => fieldRefusal(fieldState.value));

export const shownChain = computed((): Chain | null => {
  const { layers, size } = fieldState.value;
  return fieldRefused.value === null ? chainOf(layers, size) : null;
});

/** The output, whose pixels are pointed at and pinned. */
export const fieldBoard = {
  grids: computed((): Grids => {
    const size = shownChain.value?.sizes.at(-1);
    return new Map(size ? [["y", { values: { shape: [size, size] } }]] : []);
  }),
};

export interface PixelField {
  readonly pixel: Pixel;
  readonly row: AxisField;
  readonly column: AxisField;
  readonly maps: readonly MapField[];
}

/** The output pixel that is pinned or was last pointed at; the first one is near the border. */
const pixel = computed((): Pixel => {
  const cell = active.value;
  if (cell && holds(fieldBoard.grids.value, cell)) return cell.at as unknown as Pixel;
  const size = shownChain.value?.sizes.at(-1) ?? 1;
  return [size >> 3, size >> 2];
});

export const shownField = computed((): PixelField | null => {
  const chain = shownChain.value;
  if (!chain) return null;
  const [row, column] = pixel.value.map((position) => axisField(chain, position)) as [AxisField, AxisField];
  return { pixel: pixel.value, row, column, maps: chain.sizes.map((_, map) => mapField(chain, map, row, column)) };
});

export const cellOf = (at: Pixel): Cell => ({ grid: "y", at });

/** Position of the picture that was last pointed at. */
export const looked = signal<Pixel | null>(null);

/** Position of the picture whose number of paths is written: the field's centre, until one that is drawn is pointed at. */
export function lookedAt(chain: Chain, { maps }: PixelField): Pixel {
  const [least, most] = drawnSpan(chain, 0);
  if (looked.value?.every((n) => n >= least && n <= most)) return looked.value;
  const centre = ([first, last]: Span): number => Math.min(Math.max((first + last) >> 1, 0), chain.sizes[0]! - 1);
  return [centre(maps[0]!.rows), centre(maps[0]!.columns)];
}

/** Return the number of paths between the output pixel and a position of the picture or of the padding that is read. */
export function pathsTo(chain: Chain, { row, column }: PixelField, [r, c]: Pixel): [rows: number, columns: number] {
  const padding = paddingOf(chain, 0);
  return [row.paths[0]![r + padding] ?? 0, column.paths[0]![c + padding] ?? 0];
}
