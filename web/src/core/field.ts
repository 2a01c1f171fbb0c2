/**
 * Receptive fields in a chain of layers with square windows.
 *
 * Rows and columns have the same geometry and do not depend on each other, so that everything is computed along one axis:
 * numbers of positions and of paths on both axes are products.
 */

import { receptiveField } from "./counts";
import { type Axis, type AxisMap, axisMap, extentOf, outputLength, SINGLE } from "./layer";

/** A convolution or a pooling, whose window is the same along both axes. */
export interface WindowLayer {
  readonly kind: "conv" | "pool";
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
}

/** Receptive field in the picture: its size, the jump from one pixel's field to the next, and the first pixel's start. */
export interface Field {
  readonly size: number;
  readonly jump: number;
  readonly start: number;
}

/** A chain of layers along one axis. Maps are counted from the picture, which is map 0, to the last output. */
export interface Chain {
  /** The layers, each with the size of the map that it reads. */
  readonly axes: readonly Axis[];
  readonly reads: readonly AxisMap[];
  readonly sizes: readonly number[];
  /** Fields of the pixels of each map. */
  readonly fields: readonly Field[];
  /** Paths from an output pixel to each position of its field, if no layer had a border. */
  readonly uses: Float64Array;
}

export type Span = readonly [first: number, last: number];

/** Receptive field of one output position, in every map. */
export interface AxisField {
  /** First and last position, which may lie outside of the map. */
  readonly spans: readonly Span[];
  /** Paths between the output and each position of the map and of the padding that is read around it. */
  readonly paths: readonly Float64Array[];
}

function axesOf(layers: readonly WindowLayer[], size: number): Axis[] {
  return layers.map(({ kernel, stride, padding, dilation }) => {
    const axis = { ...SINGLE, size, kernel, stride, before: padding, after: padding, dilation };
    size = outputLength(axis, false);
    return axis;
  });
}

/** Return why a chain has no output or cannot be counted, in words, or null. */
export function chainRefusal(layers: readonly WindowLayer[], size: number): string | null {
  for (const [n, axis] of axesOf(layers, size).entries()) {
    const extent = extentOf(axis);
    const padded = axis.size + axis.before + axis.after;
    const half = Math.floor(extent / 2);
    if (layers[n]!.kind === "pool" && axis.before > half) {
      return `Layer ${n + 1} is a pooling with padding ${axis.before}: make it at most ${half}, half of the window of ${extent}.`;
    }
    if (extent > padded) {
      return (
        `The window of layer ${n + 1} spans ${extent} pixels, but the padded map that it reads has ${padded}: ` +
        "make the picture or the padding larger, or the kernel, a dilation or a stride smaller."
      );
    }
  }
  const taps = layers.reduce((product, { kernel }) => product * kernel, 1);
  return taps * taps > Number.MAX_SAFE_INTEGER
    ? "There are too many paths to be counted exactly: make a kernel smaller, or remove a layer."
    : null;
}

/** Return a chain's geometry; `chainRefusal` must have no objection. */
export function chainOf(layers: readonly WindowLayer[], size: number): Chain {
  const axes = axesOf(layers, size);
  const fields: Field[] = [{ size: 1, jump: 1, start: 0 }];
  for (const [n, axis] of axes.entries()) {
    const { jump, start } = fields[n]!;
    const after = receptiveField(axes.slice(0, n + 1));
    fields.push({ size: after.size, jump: after.stride, start: start - axis.before * jump });
  }
  let uses = Float64Array.of(1);
  for (const axis of [...axes].reverse()) {
    const wider = new Float64Array((uses.length - 1) * axis.stride + extentOf(axis));
    uses.forEach((count, place) => {
      for (let tap = 0; tap < axis.kernel; tap++) wider[place * axis.stride + tap * axis.dilation]! += count;
    });
    uses = wider;
  }
  return {
    axes,
    reads: axes.map((axis) => axisMap(axis, { mode: "zeros", transposed: false, flip: false })),
    sizes: [...axes.map((axis) => axis.size), outputLength(axes.at(-1)!, false)],
    fields,
    uses,
  };
}

/** Return the padding on each side of a map. */
export const paddingOf = ({ axes }: Chain, map: number): number => axes[map]?.before ?? 0;

/** Return the positions of a map in an array that holds its padding too. */
export function withoutPadding(chain: Chain, map: number, values: Float64Array): Float64Array {
  const padding = paddingOf(chain, map);
  return values.subarray(padding, padding + chain.sizes[map]!);
}

/** Return the paths between an output and every position of every map with its padding. */
function pathsFrom(chain: Chain, output: number): Float64Array[] {
  const paths = [new Float64Array(chain.sizes.at(-1)!)];
  paths[0]![output] = 1;
  for (let map = chain.axes.length - 1; map >= 0; map--) {
    const { kernel, place } = chain.reads[map]!;
    const found = new Float64Array(chain.sizes[map]! + 2 * paddingOf(chain, map));
    withoutPadding(chain, map + 1, paths[0]!).forEach((count, window) => {
      if (!count) return;
      for (let tap = 0; tap < kernel; tap++) found[place[window * kernel + tap]!]! += count;
    });
    paths.unshift(found);
  }
  return paths;
}

/** Return the first and last position of an output's field in every map. */
function spansOf(chain: Chain, output: number): Span[] {
  const spans: Span[] = [[output, output]];
  for (const axis of [...chain.axes].reverse()) {
    const [first, last] = spans[0]!;
    spans.unshift([first * axis.stride - axis.before, last * axis.stride - axis.before + extentOf(axis) - 1]);
  }
  return spans;
}

export function axisField(chain: Chain, output: number): AxisField {
  return { spans: spansOf(chain, output), paths: pathsFrom(chain, output) };
}

/** Return the number of positions of a span that lie in a map. */
export function lengthInside([first, last]: Span, size: number): number {
  return Math.max(Math.min(last, size - 1) - Math.max(first, 0) + 1, 0);
}

const total = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0);
const used = (values: Float64Array): number => values.reduce((sum, value) => sum + (value ? 1 : 0), 0);

/** Field of an output pixel in one map. */
export interface MapField {
  readonly rows: Span;
  readonly columns: Span;
  /** Positions of the field, those outside of the map, and those in the map that some path reaches. */
  readonly positions: number;
  readonly outside: number;
  readonly read: number;
  /** Paths that end in the padding around the map: of all paths to the picture, if there were no borders. */
  readonly ended: number;
}

export function mapField(chain: Chain, map: number, row: AxisField, column: AxisField): MapField {
  const size = chain.sizes[map]!;
  const axes = [row, column].map(({ spans, paths }) => {
    const inside = withoutPadding(chain, map, paths[map]!);
    return { span: spans[map]!, arriving: total(paths[map]!), staying: total(inside), read: used(inside) };
  }) as [Along, Along];
  const [rows, columns] = axes;
  const length = rows.span[1] - rows.span[0] + 1;
  const further = chain.axes.slice(0, map).reduce((product, { kernel }) => product * kernel, 1);
  return {
    rows: rows.span,
    columns: columns.span,
    positions: length * length,
    outside: length * length - lengthInside(rows.span, size) * lengthInside(columns.span, size),
    read: rows.read * columns.read,
    ended: (rows.arriving * columns.arriving - rows.staying * columns.staying) * further * further,
  };
}

interface Along {
  readonly span: Span;
  readonly arriving: number;
  readonly staying: number;
  readonly read: number;
}

/** Return, for each pixel of a map along an axis, how many positions of its field lie in the picture. */
export function lengthsInside({ sizes, fields }: Chain, map: number): number[] {
  const { size, jump, start } = fields[map]!;
  return Array.from({ length: sizes[map]! }, (_, pixel) => {
    const first = start + pixel * jump;
    return lengthInside([first, first + size - 1], sizes[0]!);
  });
}

/** Return the share of the field that lies outside of the picture, on average over all pixels of a map. */
export function meanPaddingShare(chain: Chain, map: number): number {
  const lengths = lengthsInside(chain, map);
  const inside = lengths.reduce((sum, length) => sum + length, 0) / (lengths.length * chain.fields[map]!.size);
  return 1 - inside * inside;
}

/** Return the number of positions of an output pixel's field that no path reads, wherever the pixel is. */
export function gaps({ uses }: Chain): number {
  return uses.length ** 2 - used(uses) ** 2;
}

/** Return the first and the last position that is drawn of a map: the map, its padding, and the fields of all outputs. */
export function drawnSpan(chain: Chain, map: number): Span {
  const [low] = spansOf(chain, 0)[map]!;
  const [, high] = spansOf(chain, chain.sizes.at(-1)! - 1)[map]!;
  const padding = paddingOf(chain, map);
  return [Math.min(low, -padding), Math.max(high, chain.sizes[map]! - 1 + padding)];
}
