/** Parts of the figures of one layer: the kernel's pages, labels, sizes of cells. */

import { signal } from "@preact/signals";
import { extentOf, kernelChannels, type Layer, type Tensor } from "../../core";
import type { Board, GridModel } from "../../parts/board";
import { ArrayView } from "../../parts/figure";
import { counted } from "../../parts/numbers";

export function channelLabel(leading: readonly number[]): string {
  return `channel ${leading[0]}`;
}

/** Pages of an array in rows and columns, and the cells of each page. */
export interface Block {
  readonly rows: number;
  readonly columns: number;
  readonly height: number;
  readonly width: number;
  /** Whether the pages stay where they are; else they are in a column, or in a row where there is little height. */
  readonly fixed: boolean;
}

export function block(values: Tensor): Block {
  const [pages, height, width] = values.shape as [number, number, number];
  return { rows: pages, columns: 1, height, width, fixed: false };
}

export function biasBlock(channels: number): Block {
  return { rows: 1, columns: 1, height: 1, width: channels, fixed: true };
}

export function kernelBlock(layer: Layer): Block {
  const { rows, columns } = layer;
  return { rows: layer.inChannels, columns: layer.outChannels, height: rows.kernel, width: columns.kernel, fixed: true };
}

/** Largest side of a cell in pixels for layers on two axes, on one and in narrow windows, smallest side, and most height of a figure. */
const SIDES = { most: 50, one: 44, narrow: 40, least: 10 };
const MOST_HEIGHT = 600;
/** Pixels of a figure's width below which the window is a phone's. */
const NARROW = 600;
/** Pixels that a page takes at least for its label, an array for its title, and what is around them. */
const LABEL = { width: 84, height: 34, title: 120, sign: 64 };

/** Pixels that a figure may be wide, from the window's width and the style sheet's columns. */
const room = signal(900);

/**
 * Follow the window's width.
 *
 * A frame may start with no width at all, and get its own without an event: the observer's first call then comes with
 * the first layout. It measures one frame later, since a change inside an observer's call is an error.
 */
export function followWidth(): void {
  const measure = (): void => {
    const page = Math.min(innerWidth, 1344);
    room.value = innerWidth > 960 ? page - 400 : page - (innerWidth > 640 ? 72 : 52);
  };
  measure();
  new ResizeObserver(() => requestAnimationFrame(measure)).observe(document.documentElement);
}

/** How the arrays of a figure stand: beside each other, or one above the other with their pages in rows or columns. */
const STACKINGS = ["beside", "rows", "columns"] as const;
export type Stacking = (typeof STACKINGS)[number];

/** Side of a cell from which on arrays stand beside each other, even if they would be larger one above the other. */
const COMFORTABLE = 26;

/** Return the arrangement that gives the largest cells, and the side of a cell in pixels. */
export function arrangement(blocks: readonly Block[], axes: 1 | 2): { side: number; stacking: Stacking } {
  const rows = blocks.map((b) => (b.fixed ? b : { ...b, rows: 1, columns: b.rows }));
  const tall = (room.value < NARROW ? 2 : 1.15) * MOST_HEIGHT;
  const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
  const wide = (b: Block, side: number): number =>
    Math.max(b.columns * (Math.max(b.width * side, LABEL.width) + 12), LABEL.title);
  const high = (b: Block, side: number): number => b.rows * (b.height * side + LABEL.height);
  const above = (some: readonly Block[]) => (side: number) =>
    Math.max(...some.map((b) => wide(b, side))) <= room.value && total(some.map((b) => high(b, side))) <= tall;
  const beside = (side: number): boolean =>
    total(blocks.map((b) => wide(b, side))) + (blocks.length - 1) * LABEL.sign <= room.value &&
    Math.max(...blocks.map((b) => high(b, side))) <= MOST_HEIGHT;
  const largest = (fits: (side: number) => boolean): number => {
    let side: number = room.value < NARROW ? SIDES.narrow : axes === 1 ? SIDES.one : SIDES.most;
    while (side > SIDES.least && !fits(side)) side--;
    return side;
  };
  const sides = { beside: largest(beside), rows: largest(above(rows)), columns: largest(above(blocks)) };
  const enough = Math.min(Math.max(...Object.values(sides)), COMFORTABLE);
  const stacking = STACKINGS.find((name) => sides[name] >= enough)!;
  return { side: sides[stacking], stacking: enough > SIDES.least ? stacking : "rows" };
}

/** The kernel as a matrix of pages: a row for each input channel, a column for each output channel. */
export function KernelArray({
  board,
  model,
  layer,
  side,
  title = "Kernel k",
  note = kernelNote(layer),
}: {
  board: Board;
  model: GridModel;
  layer: Layer;
  side: number;
  title?: string;
  note?: string | undefined;
}) {
  const pages = Array.from({ length: layer.inChannels }, (_, into) =>
    Array.from({ length: layer.outChannels }, (__, out) => kernelChannels(layer, out, into)),
  );
  const label = ([first, second]: readonly number[]): string => {
    const group = Math.floor(first! / ((layer.transposed ? layer.inChannels : layer.outChannels) / layer.groups));
    const other = group * ((layer.transposed ? layer.outChannels : layer.inChannels) / layer.groups) + second!;
    const [into, out] = layer.transposed ? [first!, other] : [other, first!];
    return `in ${into}, out ${out}`;
  };
  return (
    <ArrayView
      board={board}
      model={model}
      title={title}
      note={note}
      side={side}
      pageLabel={label}
      pages={pages}
    />
  );
}

function kernelNote(layer: Layer): string {
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const taps = axes.map((axis) => axis.kernel).join(" × ");
  const extents = axes.map(extentOf).join(" × ");
  const spread = axes.some((axis) => axis.dilation > 1 && axis.kernel > 1) ? `, spread over ${extents}` : "";
  const groups = layer.groups > 1 ? `, ${counted(layer.groups, "group")}` : "";
  return `${taps}${spread}${groups}${layer.flip ? ", read backwards" : ""}`;
}
