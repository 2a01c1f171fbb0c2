/** Counts along one axis, by the definitions of `convolith.cost`: all others are their products. */

import { type Axis, type Layer, outputLength, sourceAt } from "./layer";

export const CONVENTIONS = ["dense", "effective"] as const;
/** Whether products with the zeros of the padding count (dense) or not (effective). */
export type Convention = (typeof CONVENTIONS)[number];

/** Products along one axis of an ordinary correlation, and the outputs, inputs and taps that take part in one. */
export interface AxisCounts {
  readonly products: number;
  readonly outputs: number;
  readonly inputs: number;
  readonly taps: number;
}

/** Count one axis; of a transposed layer, the axis of the ordinary one that it is the adjoint of. */
export function axisCounts(
  axis: Axis,
  layer: Pick<Layer, "mode" | "transposed">,
  convention: Convention,
): AxisCounts {
  const size = layer.transposed ? outputLength(axis, true) : axis.size;
  const outputs = layer.transposed ? axis.size : outputLength(axis, false);
  const reached = new Uint8Array(outputs);
  const read = new Uint8Array(size + axis.before + axis.after);
  let products = 0;
  let taps = 0;
  for (let tap = 0; tap < axis.kernel; tap++) {
    const before = products;
    for (let output = 0; output < outputs; output++) {
      const place = output * axis.stride + tap * axis.dilation;
      const input = convention === "dense" ? place : sourceAt(place - axis.before, size, layer.mode);
      if (input < 0) continue;
      products++;
      reached[output] = read[input] = 1;
    }
    if (products > before) taps++;
  }
  return { products, outputs: count(reached), inputs: count(read), taps };
}

function count(flags: Uint8Array): number {
  let sum = 0;
  for (const flag of flags) sum += flag;
  return sum;
}
