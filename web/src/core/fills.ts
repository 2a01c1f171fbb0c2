/** Values of an input or a kernel, by name, from a seed or as given. */

import { sizeOf, type Tensor, tensor, zeros } from "./tensor";

export const FILLS = ["count", "ones", "random", "impulse", "mean", "edges", "step", "zeros"] as const;
export type FillName = (typeof FILLS)[number];

/** Values by name (`random` from a seed), or numbers that were given for a shape. */
export type Fill = { readonly name: FillName; readonly seed: number } | { readonly given: Tensor };

export const named = (name: FillName, seed = 1): Fill => ({ name, seed });

/** Return an array of a shape, whose last two axes are rows and columns. */
export function filled(fill: Fill, shape: readonly number[]): Tensor {
  if ("given" in fill) return fitted(fill.given, shape);
  const [height, width] = shape.length > 1 ? shape.slice(-2) as [number, number] : [1, 1];
  const pixels = height * width;
  const values = new Float64Array(sizeOf(shape));
  const random = randomNumbers(fill.seed);
  for (let place = 0; place < values.length; place++) {
    const pixel = place % pixels;
    const row = Math.floor(pixel / width);
    const column = pixel % width;
    switch (fill.name) {
      case "count":
        values[place] = pixel + leadingSum(shape, Math.floor(place / pixels));
        break;
      case "ones":
        values[place] = 1;
        break;
      case "random":
        values[place] = Math.floor(random() * 19) - 9;
        break;
      case "impulse":
        values[place] = row === (height - 1) >> 1 && column === (width - 1) >> 1 ? 1 : 0;
        break;
      case "mean":
        values[place] = 1 / pixels;
        break;
      case "edges":
        values[place] = binomial(height - 1, row) * (width > 1 ? Math.sign(2 * column - width + 1) * binomial(width - 1, column) : 1);
        break;
      case "step":
        values[place] = 2 * column >= width ? 9 : 0;
        break;
      case "zeros":
        break;
    }
  }
  return { shape, data: values };
}

/** Return the sum of the indices before rows and columns, so that each channel counts from another number. */
function leadingSum(shape: readonly number[], place: number): number {
  const leading = shape.length > 1 ? shape.slice(0, -2) : shape;
  let sum = 0;
  for (let axis = leading.length - 1; axis >= 0; axis--) {
    sum += place % leading[axis]!;
    place = Math.floor(place / leading[axis]!);
  }
  return sum;
}

function binomial(n: number, k: number): number {
  let result = 1;
  for (let i = 1; i <= k; i++) result = (result * (n - k + i)) / i;
  return Math.round(result);
}

/** Return the values that both shapes have, with zeros elsewhere. */
export function fitted(values: Tensor, shape: readonly number[]): Tensor {
  if (values.shape.length === shape.length && values.shape.every((n, axis) => n === shape[axis])) return values;
  const result = zeros(shape);
  if (values.shape.length !== shape.length) return result;
  result.data.forEach((_, place) => {
    let rest = place;
    let from = 0;
    let step = 1;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const at = rest % shape[axis]!;
      if (at >= values.shape[axis]!) return;
      from += at * step;
      step *= values.shape[axis]!;
      rest = Math.floor(rest / shape[axis]!);
    }
    result.data[place] = values.data[from]!;
  });
  return result;
}

/** Return a generator of numbers in [0, 1) from a seed (mulberry32, by T. Ettinger, public domain). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Return values with one of them replaced. */
export function replaced(values: Tensor, place: number, value: number): Tensor {
  const data = Float64Array.from(values.data);
  data[place] = value;
  return tensor(values.shape, data);
}
