/** Convolutions in a row or in branches as one convolution, and the pixels where that one alone is wrong. */

import { correlate, kernelChannels, padded } from "./correlation";
import { type Axis, extentOf, kernelShape, type Layer, outputLength, outputShape } from "./layer";
import { offset, type Tensor, zeros } from "./tensor";

/** A layer with its values. */
export interface Block {
  readonly layer: Layer;
  readonly kernel: Tensor;
  readonly bias: Tensor | null;
}

export interface Folded {
  readonly block: Block;
  /** "everywhere": equal at every input size; "interior": different where the second layer reads padding. */
  readonly exact: "everywhere" | "interior";
  readonly reason: string;
}

const gcd = (a: number, b: number): number => (b ? gcd(b, a % b) : a);

const isPadded = (layer: Layer): boolean =>
  [layer.rows, layer.columns].some((axis) => axis.before > 0 || axis.after > 0);

/** Return why two layers equal no single convolution, in words, or null. */
export function rowRefusal(first: Layer, second: Layer): string | null {
  if (first.transposed || second.transposed || first.flip || second.flip) {
    return "Only correlations that are not transposed are folded here.";
  }
  if (first.outChannels !== second.inChannels) {
    return `The second layer takes ${second.inChannels} channels, but the first gives ${first.outChannels}.`;
  }
  return null;
}

function composedAxis(first: Axis, second: Axis): Axis {
  const step = first.stride * second.dilation;
  const dilation = gcd(first.kernel > 1 ? first.dilation : 0, second.kernel > 1 ? step : 0) || 1;
  const extent = step * (second.kernel - 1) + first.dilation * (first.kernel - 1) + 1;
  return {
    size: first.size,
    kernel: (extent - 1) / dilation + 1,
    stride: first.stride * second.stride,
    before: first.before + first.stride * second.before,
    after: first.after + first.stride * second.after,
    dilation,
    outputPadding: 0,
  };
}

/** Return the geometry of the one convolution that equals two in a row. */
export function composedLayer(a: Layer, b: Layer): Layer {
  return {
    ...a,
    outChannels: b.outChannels,
    groups: gcd(a.groups, b.groups),
    rows: composedAxis(a.rows, b.rows),
    columns: composedAxis(a.columns, b.columns),
    mode: isPadded(a) ? a.mode : b.mode,
  };
}

/** Return the one convolution that equals `second` after `first`, but for the pixels that read padding between them. */
export function compose(first: Block, second: Block): Folded {
  const [a, b] = [first.layer, second.layer];
  const layer = composedLayer(a, b);
  const kernel = zeros(kernelShape(layer));
  for (const [tap, one, two] of tapProducts(layer, a, b)) {
    kernel.data[tap]! += second.kernel.data[two]! * first.kernel.data[one]!;
  }
  const bias = composedBias(first, second);
  return { block: { layer, kernel, bias }, ...exactness(first, second) };
}

function composedBias(first: Block, second: Block): Tensor | null {
  if (!first.bias && !second.bias) return null;
  const bias = zeros([second.layer.outChannels]);
  if (second.bias) bias.data.set(second.bias.data);
  if (!first.bias) return bias;
  const shape = kernelShape(second.layer);
  const taps = shape[2]! * shape[3]!;
  for (let out = 0; out < second.layer.outChannels; out++) {
    for (let hidden = 0; hidden < second.layer.inChannels; hidden++) {
      const channels = kernelChannels(second.layer, out, hidden);
      if (!channels) continue;
      const start = offset(shape, [...channels, 0, 0]);
      for (let tap = 0; tap < taps; tap++) bias.data[out]! += second.kernel.data[start + tap]! * first.bias.data[hidden]!;
    }
  }
  return bias;
}

/** Return the products that make the composed kernel: places in it, in the first kernel and in the second. */
export function tapProducts(composed: Layer, first: Layer, second: Layer): [number, number, number][] {
  const shapes = [composed, first, second].map(kernelShape);
  const products: [number, number, number][] = [];
  for (let out = 0; out < second.outChannels; out++) {
    for (let into = 0; into < first.inChannels; into++) {
      const whole = kernelChannels(composed, out, into);
      for (let hidden = 0; whole && hidden < first.outChannels; hidden++) {
        const one = kernelChannels(first, hidden, into);
        const two = kernelChannels(second, out, hidden);
        if (!one || !two) continue;
        for (const [row, i1, i2] of tapSums(composed.rows, first.rows, second.rows)) {
          for (const [column, j1, j2] of tapSums(composed.columns, first.columns, second.columns)) {
            products.push([
              offset(shapes[0]!, [...whole, row, column]),
              offset(shapes[1]!, [...one, i1, j1]),
              offset(shapes[2]!, [...two, i2, j2]),
            ]);
          }
        }
      }
    }
  }
  return products;
}

/** Return, along one axis, the composed tap that each pair of taps belongs to: (composed, first, second). */
function tapSums(composed: Axis, first: Axis, second: Axis): [number, number, number][] {
  const sums: [number, number, number][] = [];
  for (let two = 0; two < second.kernel; two++) {
    for (let one = 0; one < first.kernel; one++) {
      const position = first.stride * second.dilation * two + first.dilation * one;
      sums.push([position / composed.dilation, one, two]);
    }
  }
  return sums;
}

/** Return whether the composed convolution equals the two at every input size, and why (not). */
function exactness(first: Block, second: Block): Pick<Folded, "exact" | "reason"> {
  const [a, b] = [first.layer, second.layer];
  if (!isPadded(b)) return { exact: "everywhere", reason: "The second convolution is not padded." };
  if (isPadded(a) && a.mode !== b.mode) {
    return { exact: "interior", reason: `The first convolution pads with ${a.mode}, the second with ${b.mode}.` };
  }
  if (b.mode === "zeros" && first.bias?.data.some((value) => value !== 0)) {
    return {
      exact: "interior",
      reason: "The second convolution pads with zeros where the first would give its bias.",
    };
  }
  const exact = (["rows", "columns"] as const).every((name) => axisIsExact(first, second, name));
  return exact
    ? {
        exact: "everywhere",
        reason: `The padding (${b.mode}) of the first output is just what the first computes beyond its border.`,
      }
    : {
        exact: "interior",
        reason: `The padding (${b.mode}) of the first output is not what the first computes beyond its border.`,
      };
}

function axisIsExact(first: Block, second: Block, name: "rows" | "columns"): boolean {
  const a = first.layer[name];
  const b = second.layer[name];
  if (!b.before && !b.after) return true;
  const reach = a.dilation * (a.kernel - 1);
  switch (second.layer.mode) {
    case "zeros":
      return readsZeros(a, b, reach);
    case "circular":
      return a.stride === 1 && a.before + a.after === reach;
    case "replicate":
      return a.stride === 1 && !a.before && !a.after && !reach;
    default:
      return a.stride === 1 && 2 * a.before === reach && 2 * a.after === reach && isSymmetric(first, name);
  }
}

/** Return whether every position outside the first output that the second reads has only padding in its window. */
function readsZeros(first: Axis, second: Axis, reach: number): boolean {
  let nearest = -Infinity;
  for (let start = 0; start < second.before; start += second.stride) {
    for (let tap = 0; tap < second.kernel; tap++) {
      const read = start + second.dilation * tap - second.before;
      if (read < 0) nearest = Math.max(nearest, read);
    }
  }
  const low = nearest === -Infinity || nearest * first.stride - first.before + reach < 0;
  return low && (second.after === 0 || first.after >= reach);
}

function isSymmetric(block: Block, name: "rows" | "columns"): boolean {
  const { shape, data } = block.kernel;
  const [, , height, width] = shape as [number, number, number, number];
  return data.every((value, place) => {
    const column = place % width;
    const row = Math.floor(place / width) % height;
    const mirrored = name === "rows" ? place + (height - 1 - 2 * row) * width : place + width - 1 - 2 * column;
    return data[mirrored] === value;
  });
}

/** Return why branches have no sum that is one convolution, in words, or null. */
export function branchRefusal(branches: readonly Layer[]): string | null {
  const [first] = branches as [Layer];
  const padded = branches.filter(isPadded);
  for (const other of branches) {
    if (other.transposed || other.flip) return "Only correlations that are not transposed are folded here.";
    if (other.rows.stride !== first.rows.stride || other.columns.stride !== first.columns.stride) {
      return "The branches have different strides, so that their outputs belong to different pixels.";
    }
    const reaches = (axis: Axis): number => extentOf(axis) - axis.before - axis.after;
    if (reaches(other.rows) !== reaches(first.rows) || reaches(other.columns) !== reaches(first.columns)) {
      return (
        `The outputs have different sizes (${outputShape(first).slice(1).join(" x ")} and ` +
        `${outputShape(other).slice(1).join(" x ")}): choose the padding of the larger kernel accordingly.`
      );
    }
    if (padded.includes(other) && other.mode !== padded[0]!.mode) {
      return `One branch pads with ${padded[0]!.mode}, another with ${other.mode}.`;
    }
  }
  return null;
}

/** Return the one convolution whose output is the sum of the outputs of all branches; it is exact everywhere. */
export function sumBranches(branches: readonly Block[]): Block {
  const layers = branches.map((branch) => branch.layer);
  const [first] = layers as [Layer];
  const layer: Layer = {
    ...first,
    groups: layers.reduce((common, other) => gcd(common, other.groups), 0),
    rows: sharedAxis(layers.map((other) => other.rows)),
    columns: sharedAxis(layers.map((other) => other.columns)),
    mode: (layers.find(isPadded) ?? first).mode,
  };
  const kernel = zeros(kernelShape(layer));
  branches.forEach((branch) => {
    for (const [tap, own] of branchTaps(layer, branch.layer)) kernel.data[tap]! += branch.kernel.data[own]!;
  });
  let bias: Tensor | null = null;
  for (const branch of branches) {
    if (!branch.bias) continue;
    bias ??= zeros([layer.outChannels]);
    for (let out = 0; out < layer.outChannels; out++) bias.data[out]! += branch.bias.data[out]!;
  }
  return { layer, kernel, bias };
}

/** Return the axis whose grid of taps holds the taps of all branches, where they read the input. */
function sharedAxis(axes: readonly Axis[]): Axis {
  const before = Math.max(...axes.map((axis) => axis.before));
  const steps = axes.flatMap((axis) => [axis.kernel > 1 ? axis.dilation : 0, before - axis.before]);
  const dilation = steps.reduce(gcd, 0) || 1;
  const reach = Math.max(...axes.map((axis) => before - axis.before + extentOf(axis) - 1));
  return { ...axes[0]!, before, after: Math.max(...axes.map((axis) => axis.after)), dilation, kernel: reach / dilation + 1 };
}

/** Return the place of each tap of a branch in the shared kernel, and in its own. */
export function branchTaps(shared: Layer, branch: Layer): [number, number][] {
  const shapes = [kernelShape(shared), kernelShape(branch)] as const;
  const moved = (whole: Axis, axis: Axis, tap: number): number =>
    (whole.before - axis.before + axis.dilation * tap) / whole.dilation;
  const places: [number, number][] = [];
  for (let out = 0; out < branch.outChannels; out++) {
    for (let into = 0; into < branch.inChannels; into++) {
      const own = kernelChannels(branch, out, into);
      const whole = kernelChannels(shared, out, into);
      if (!own || !whole) continue;
      for (let i = 0; i < branch.rows.kernel; i++) {
        for (let j = 0; j < branch.columns.kernel; j++) {
          const at = [moved(shared.rows, branch.rows, i), moved(shared.columns, branch.columns, j)];
          places.push([offset(shapes[0], [...whole, ...at]), offset(shapes[1], [...own, i, j])]);
        }
      }
    }
  }
  return places;
}

/** Return a layer for another input: the one that reads the output of `layer`. */
export function after(layer: Layer, next: Layer): Layer {
  return {
    ...next,
    rows: { ...next.rows, size: outputLength(layer.rows, false) },
    columns: { ...next.columns, size: outputLength(layer.columns, false) },
  };
}

/** Compute a block's output, with a ReLU after it if `rectified`. */
export function applyBlock(block: Block, x: Tensor, rectified = false): Tensor {
  const y = correlate(block.layer, x, block.kernel, block.bias);
  if (rectified) y.data.forEach((value, place) => (y.data[place] = Math.max(value, 0)));
  return y;
}

/**
 * Return the first output as the second layer reads it, with its padding, and as the composed convolution uses it: with
 * the values that the first layer would compute there. They differ only where the composition is wrong.
 */
export function beyondBorder(first: Block, second: Block, x: Tensor): { read: Tensor; used: Tensor } {
  const [a, b] = [first.layer, second.layer];
  const wide = (one: Axis, two: Axis): Axis => ({
    ...one,
    before: one.before + one.stride * two.before,
    after: one.after + one.stride * two.after,
  });
  const extended: Layer = {
    ...a,
    rows: wide(a.rows, b.rows),
    columns: wide(a.columns, b.columns),
    mode: isPadded(a) ? a.mode : b.mode,
  };
  return {
    read: padded(b, applyBlock(first, x)),
    used: correlate(extended, x, first.kernel, first.bias),
  };
}
