/** A layer's output, the gradients of its input, kernel and bias, and the products that make each of their elements. */

import { type AxisMap, axisMap, inputShape, kernelShape, type Layer, outputShape, sourceAt } from "./layer";
import { offset, type Tensor, zeros } from "./tensor";

/** One product: an input element, or null for a zero of the padding, with its place in the padded input. */
export interface Product {
  readonly input: readonly number[] | null;
  readonly padded: readonly number[];
  readonly tap: readonly number[];
  readonly output: readonly number[];
}

export interface Maps {
  readonly rows: AxisMap;
  readonly columns: AxisMap;
}

export function mapsOf(layer: Layer): Maps {
  return { rows: axisMap(layer.rows, layer), columns: axisMap(layer.columns, layer) };
}

/** Return the first two indices of the kernel element that joins two channels, or null if they share no group. */
export function kernelChannels(layer: Layer, out: number, into: number): [number, number] | null {
  const outs = layer.outChannels / layer.groups;
  const ins = layer.inChannels / layer.groups;
  if (Math.floor(out / outs) !== Math.floor(into / ins)) return null;
  return layer.transposed ? [into, out % outs] : [out, into % ins];
}

/** Call `visit` with the places of every product of two channels: in the input (-1 for a zero), kernel and output. */
function everyProduct(layer: Layer, visit: (input: number, tap: number, output: number) => void): void {
  const { rows, columns } = mapsOf(layer);
  const [, height, width] = inputShape(layer) as [number, number, number];
  const taps = kernelShape(layer);
  for (let out = 0; out < layer.outChannels; out++) {
    for (let into = 0; into < layer.inChannels; into++) {
      const channels = kernelChannels(layer, out, into);
      if (!channels) continue;
      const kernel = offset(taps, [...channels, 0, 0]);
      for (let row = 0; row < rows.outputs; row++) {
        for (let column = 0; column < columns.outputs; column++) {
          const output = (out * rows.outputs + row) * columns.outputs + column;
          for (let i = 0; i < rows.kernel; i++) {
            const r = rows.source[row * rows.kernel + i]!;
            if (r < 0) continue;
            for (let j = 0; j < columns.kernel; j++) {
              const c = columns.source[column * columns.kernel + j]!;
              if (c >= 0) visit((into * height + r) * width + c, kernel + i * columns.kernel + j, output);
            }
          }
        }
      }
    }
  }
}

export function correlate(layer: Layer, x: Tensor, k: Tensor, bias: Tensor | null = null): Tensor {
  const y = zeros(outputShape(layer));
  if (bias) {
    const pixels = y.shape[1]! * y.shape[2]!;
    for (let place = 0; place < y.data.length; place++) y.data[place] = bias.data[Math.floor(place / pixels)]!;
  }
  everyProduct(layer, (input, tap, output) => {
    y.data[output]! += x.data[input]! * k.data[tap]!;
  });
  return y;
}

export function inputGradient(layer: Layer, k: Tensor, dy: Tensor): Tensor {
  const dx = zeros(inputShape(layer));
  everyProduct(layer, (input, tap, output) => {
    dx.data[input]! += k.data[tap]! * dy.data[output]!;
  });
  return dx;
}

export function kernelGradient(layer: Layer, x: Tensor, dy: Tensor): Tensor {
  const dk = zeros(kernelShape(layer));
  everyProduct(layer, (input, tap, output) => {
    dk.data[tap]! += x.data[input]! * dy.data[output]!;
  });
  return dk;
}

export function biasGradient(dy: Tensor): Tensor {
  const db = zeros([dy.shape[0]!]);
  const pixels = dy.shape[1]! * dy.shape[2]!;
  dy.data.forEach((value, place) => {
    db.data[Math.floor(place / pixels)]! += value;
  });
  return db;
}

/** Return the products that make one output, channel by channel, with those of the padding's zeros. */
export function productsOfOutput(layer: Layer, maps: Maps, output: readonly number[]): Product[] {
  const [out, row, column] = output as [number, number, number];
  const products: Product[] = [];
  for (let into = 0; into < layer.inChannels; into++) {
    const channels = kernelChannels(layer, out, into);
    if (!channels) continue;
    for (let i = 0; i < maps.rows.kernel; i++) {
      for (let j = 0; j < maps.columns.kernel; j++) {
        const product = productAt(maps, into, channels, i, j, output, row, column);
        if (product) products.push(product);
      }
    }
  }
  return products;
}

/** Return the products that an input takes part in: one for each output that it reaches, through each tap. */
export function productsOfInput(layer: Layer, maps: Maps, input: readonly number[]): Product[] {
  const [into, r, c] = input as [number, number, number];
  const products: Product[] = [];
  for (let out = 0; out < layer.outChannels; out++) {
    const channels = kernelChannels(layer, out, into);
    if (!channels) continue;
    for (const [row, i] of entriesOf(maps.rows, r)) {
      for (const [column, j] of entriesOf(maps.columns, c)) {
        products.push(productAt(maps, into, channels, i, j, [out, row, column], row, column)!);
      }
    }
  }
  return products;
}

/** Return the products that a kernel element takes part in: one for each output of its channel. */
export function productsOfTap(layer: Layer, maps: Maps, tap: readonly number[]): Product[] {
  const [first, second, i, j] = tap as [number, number, number, number];
  const perGroup = (layer.transposed ? layer.inChannels : layer.outChannels) / layer.groups;
  const group = Math.floor(first / perGroup);
  const others = (layer.transposed ? layer.outChannels : layer.inChannels) / layer.groups;
  const [out, into] = layer.transposed ? [group * others + second, first] : [first, group * others + second];
  const products: Product[] = [];
  for (let row = 0; row < maps.rows.outputs; row++) {
    for (let column = 0; column < maps.columns.outputs; column++) {
      const product = productAt(maps, into, [first, second], i, j, [out, row, column], row, column);
      if (product) products.push(product);
    }
  }
  return products;
}

function entriesOf(map: AxisMap, source: number): [number, number][] {
  const found: [number, number][] = [];
  map.source.forEach((from, entry) => {
    if (from === source) found.push([Math.floor(entry / map.kernel), entry % map.kernel]);
  });
  return found;
}

function productAt(
  maps: Maps,
  into: number,
  channels: readonly [number, number],
  i: number,
  j: number,
  output: readonly number[],
  row: number,
  column: number,
): Product | null {
  const down = row * maps.rows.kernel + i;
  const across = column * maps.columns.kernel + j;
  if (maps.rows.place[down]! < 0 || maps.columns.place[across]! < 0) return null;
  const r = maps.rows.source[down]!;
  const c = maps.columns.source[across]!;
  return {
    input: r < 0 || c < 0 ? null : [into, r, c],
    padded: [into, maps.rows.place[down]!, maps.columns.place[across]!],
    tap: [...channels, i, j],
    output,
  };
}

/** Return the input with its padding, as a correlation reads it; a transposed layer reads no padding. */
export function padded(layer: Layer, x: Tensor): Tensor {
  const { rows, columns } = layer;
  const around = layer.transposed ? 0 : 1;
  const height = rows.size + around * (rows.before + rows.after);
  const width = columns.size + around * (columns.before + columns.after);
  const result = zeros([layer.inChannels, height, width]);
  let place = 0;
  for (let channel = 0; channel < layer.inChannels; channel++) {
    for (let row = 0; row < height; row++) {
      const r = sourceAt(row - around * rows.before, rows.size, layer.mode);
      for (let column = 0; column < width; column++, place++) {
        const c = sourceAt(column - around * columns.before, columns.size, layer.mode);
        if (r >= 0 && c >= 0) result.data[place] = x.data[(channel * rows.size + r) * columns.size + c]!;
      }
    }
  }
  return result;
}

/**
 * Return a layer as a matrix product: the kernel as a matrix, and the windows of x as the columns of another.
 *
 * Row `(channel * kh + i) * kw + j` of the windows belongs to one tap of one input channel, and column `row * w + column` to one
 * output pixel. The kernel's matrix has zeros between channels of different groups. With a 1x1 kernel of stride 1, the
 * windows are x itself, one row per channel.
 */
export function matrices(layer: Layer, x: Tensor, k: Tensor): { kernel: Tensor; windows: Tensor } {
  const maps = mapsOf(layer);
  const taps = maps.rows.kernel * maps.columns.kernel;
  const shape = kernelShape(layer);
  const pixels = maps.rows.outputs * maps.columns.outputs;
  const kernel = zeros([layer.outChannels, layer.inChannels * taps]);
  const windows = zeros([layer.inChannels * taps, pixels]);
  for (let into = 0; into < layer.inChannels; into++) {
    for (let tap = 0; tap < taps; tap++) {
      const i = Math.floor(tap / maps.columns.kernel);
      const j = tap % maps.columns.kernel;
      for (let out = 0; out < layer.outChannels; out++) {
        const channels = kernelChannels(layer, out, into);
        if (channels) {
          kernel.data[(out * layer.inChannels + into) * taps + tap] = k.data[offset(shape, [...channels, i, j])]!;
        }
      }
      for (let pixel = 0; pixel < pixels; pixel++) {
        const r = maps.rows.source[Math.floor(pixel / maps.columns.outputs) * maps.rows.kernel + i]!;
        const c = maps.columns.source[(pixel % maps.columns.outputs) * maps.columns.kernel + j]!;
        if (r < 0 || c < 0) continue;
        windows.data[(into * taps + tap) * pixels + pixel] =
          x.data[(into * layer.rows.size + r) * layer.columns.size + c]!;
      }
    }
  }
  return { kernel, windows };
}
