/** The arrays of the gradient as a correlation: dy spread out and padded, and the kernel flipped. */

import {
  type Axis,
  extentOf,
  inputGradient,
  kernelShape,
  type Layer,
  outputShape,
  type Product,
  SINGLE,
  type Tensor,
  zeros,
} from "../../core";
import type { Arrays } from "./layer_arrays";

/** Where dy stands along one axis of its spread-out and padded form. */
interface Spread {
  readonly length: number;
  /** Place of the first element of dy; negative if elements are left out. */
  readonly start: number;
  readonly step: number;
}

function spreadAxis(axis: Axis, layer: Layer): Spread {
  const reach = extentOf(axis) - 1;
  if (layer.transposed) {
    return { length: (axis.size - 1) * axis.stride + reach + 1, start: axis.before, step: 1 };
  }
  // Without zeros as padding, the gradient of the padded input is computed first.
  const whole = layer.mode !== "zeros";
  const size = whole ? axis.before + axis.size + axis.after : axis.size;
  return { length: size + reach, start: reach - (whole ? 0 : axis.before), step: axis.stride };
}

export interface SpreadArrays {
  readonly spread: Tensor;
  readonly flipped: Tensor;
  /** Gradient of the padded input, where padding repeats inputs. */
  readonly paddedGradient: Tensor | null;
  readonly rows: Spread;
  readonly columns: Spread;
  /** Whether the kernel is read backwards. */
  readonly backwards: boolean;
}

export function spreadArrays({ layer, k, dy }: Arrays): SpreadArrays {
  const rows = spreadAxis(layer.rows, layer);
  const columns = spreadAxis(layer.columns, layer);
  const spread = zeros([layer.outChannels, rows.length, columns.length]);
  const [channels, height, width] = outputShape(layer) as [number, number, number];
  for (let place = 0; place < dy.data.length; place++) {
    const row = rows.start + rows.step * (Math.floor(place / width) % height);
    const column = columns.start + columns.step * (place % width);
    const channel = Math.floor(place / (height * width));
    if (row < 0 || row >= rows.length || column < 0 || column >= columns.length || channel >= channels) continue;
    spread.data[(channel * rows.length + row) * columns.length + column] = dy.data[place]!;
  }
  const backwards = layer.transposed === layer.flip;
  const taps = layer.rows.kernel * layer.columns.kernel;
  const flipped = zeros(kernelShape(layer));
  k.data.forEach((value, place) => {
    const tap = place % taps;
    flipped.data[place - tap + (backwards ? taps - 1 - tap : tap)] = value;
  });
  const paddedGradient = layer.mode === "zeros" ? null : inputGradient(paddedLayer(layer), k, dy);
  return { spread, flipped, paddedGradient, rows, columns, backwards };
}

/** Return the layer that takes the padded input. */
function paddedLayer(layer: Layer): Layer {
  const grown = (axis: Axis): Axis => ({ ...axis, size: axis.before + axis.size + axis.after, before: 0, after: 0 });
  return { ...layer, rows: layer.axes === 1 ? SINGLE : grown(layer.rows), columns: grown(layer.columns), mode: "zeros" };
}

/** Return where a product's output gradient stands in the spread array. */
export function spreadPlace(found: SpreadArrays, output: readonly number[]): number[] {
  const [channel, row, column] = output as [number, number, number];
  return [channel, found.rows.start + found.rows.step * row, found.columns.start + found.columns.step * column];
}

/** Return the output gradient that stands at a place of the spread array, or null for a zero. */
export function spreadSource(found: SpreadArrays, layer: Layer, at: readonly number[]): number[] | null {
  const [, height, width] = outputShape(layer) as [number, number, number];
  const row = (at[1]! - found.rows.start) / found.rows.step;
  const column = (at[2]! - found.columns.start) / found.columns.step;
  const inside = Number.isInteger(row) && Number.isInteger(column) && row >= 0 && row < height && column >= 0 && column < width;
  return inside ? [at[0]!, row, column] : null;
}

/** Return where a tap stands in the kernel as the gradient reads it; the same call leads back. */
export function flippedTap(found: SpreadArrays, layer: Layer, tap: Product["tap"]): number[] {
  const [first, second, i, j] = tap as [number, number, number, number];
  if (!found.backwards) return [...tap];
  return [first, second, layer.rows.kernel - 1 - i, layer.columns.kernel - 1 - j];
}
