/**
 * Operations and memory of a layer as formulas with names, by the definitions of `convolith.cost`.
 *
 * Values are whole numbers of any length: a large layer forms more products than a float64 can count.
 */

import { axisCounts, type Convention } from "./axis_counts";
import { type Axis, extentOf, type Layer, outputLength } from "./layer";

/** A number and its name, such as `k_h`; `c_i/g` is the number of input channels of a group. */
export type Factor = readonly [name: string, value: number | bigint];

export interface Summand {
  readonly sign: 1 | -1;
  readonly factors: readonly Factor[];
}

/** A sum of products; the empty sum is 0. */
export type Formula = readonly Summand[];

export const PASSES = ["forward", "inputGradient", "kernelGradient", "biasGradient"] as const;
export type Pass = (typeof PASSES)[number];

export const OPERATIONS = ["multiplications", "additions"] as const;
export type OperationFormulas = Readonly<Record<Pass, Readonly<Record<(typeof OPERATIONS)[number], Formula>>>>;

export interface MemoryFormulas {
  readonly forward: Readonly<Record<"input" | "parameters" | "output", Formula>>;
  readonly backward: Readonly<
    Record<"parameterGradients" | "inputGradient" | "outputGradient" | "savedActivations", Formula>
  >;
}

export interface CostOptions {
  readonly batch: number;
  readonly biased: boolean;
  readonly convention: Convention;
  /** Bytes of an element. */
  readonly itemsize: number;
  /** Whether the gradient of the input is computed; a network's first layer needs none. */
  readonly inputGradient: boolean;
}

const plus = (...factors: Factor[]): Summand => ({ sign: 1, factors });
const minus = (...factors: Factor[]): Summand => ({ sign: -1, factors });

export function valueOf(formula: Formula): bigint {
  return formula.reduce(
    (sum, { sign, factors }) => sum + factors.reduce((product, [, value]) => product * BigInt(value), BigInt(sign)),
    0n,
  );
}

interface NamedAxis {
  readonly axis: Axis;
  /** Name of the size: h, w, or n where there is one axis. */
  readonly letter: string;
  /** Index of other numbers along the axis. */
  readonly index: string;
}

function namedAxes({ axes, rows, columns }: Layer): NamedAxis[] {
  return axes === 1
    ? [{ axis: columns, letter: "n", index: "" }]
    : [
        { axis: rows, letter: "h", index: "_h" },
        { axis: columns, letter: "w", index: "_w" },
      ];
}

function channelFactors(layer: Layer): Factor[] {
  const inner: Factor = layer.groups > 1 ? ["c_i/g", layer.inChannels / layer.groups] : ["c_i", layer.inChannels];
  return [["c_o", layer.outChannels], inner];
}

const sizes = (layer: Layer): Factor[] => namedAxes(layer).map(({ axis, letter }) => [letter, axis.size]);
const kernelSizes = (layer: Layer): Factor[] => namedAxes(layer).map(({ axis, index }) => [`k${index}`, axis.kernel]);
const outputSizes = (layer: Layer): Factor[] =>
  namedAxes(layer).map(({ axis, letter }) => [`${letter}_o`, outputLength(axis, layer.transposed)]);

/** Return the formulas of all counts; `P` in them is the number of products that the forward pass forms. */
export function operationFormulas(layer: Layer, options: CostOptions): OperationFormulas {
  const { batch, biased, convention, inputGradient } = options;
  const counted = namedAxes(layer).map(({ axis, index }) => ({ index, ...axisCounts(axis, layer, convention) }));
  const dense = convention === "dense";
  const near = counted.map(({ index, inputs }): Factor => [`a${index}`, inputs]);
  const far = dense
    ? layer.transposed
      ? sizes(layer)
      : outputSizes(layer)
    : counted.map(({ index, outputs }): Factor => [`r${index}`, outputs]);
  const taps = dense ? kernelSizes(layer) : counted.map(({ index, taps: n }): Factor => [`t${index}`, n]);
  const pairs = dense ? [...taps, ...far] : counted.map(({ index, products }): Factor => [`p${index}`, products]);
  const [read, written] = layer.transposed ? [far, near] : [near, far];
  const images: Factor = ["N", batch];
  const channels = channelFactors(layer);
  const [out] = channels as [Factor];
  const products = [plus(images, ...channels, ...pairs)];
  const total = plus(["P", valueOf(products)]);
  const outputs: Factor[] = [images, out, ...outputSizes(layer)];
  const none = { multiplications: [], additions: [] };
  return {
    forward: {
      multiplications: products,
      additions: [total, minus(images, out, ...written), ...(biased ? [plus(...outputs)] : [])],
    },
    inputGradient: inputGradient
      ? { multiplications: [total], additions: [total, minus(images, ["c_i", layer.inChannels], ...read)] }
      : none,
    kernelGradient: { multiplications: [total], additions: [total, minus(...channels, ...taps)] },
    biasGradient: biased ? { multiplications: [], additions: [plus(...outputs), minus(out)] } : none,
  };
}

/** Return the formulas of the bytes that a layer holds, term by term. */
export function memoryFormulas(layer: Layer, { batch, biased, itemsize, inputGradient }: CostOptions): MemoryFormulas {
  const bytes: Factor = ["b", itemsize];
  const images: Factor = ["N", batch];
  const channels = channelFactors(layer);
  const [out] = channels as [Factor];
  const input = plus(images, ["c_i", layer.inChannels], ...sizes(layer), bytes);
  const output = [plus(images, out, ...outputSizes(layer), bytes)];
  const parameters = [plus(...channels, ...kernelSizes(layer), bytes), ...(biased ? [plus(out, bytes)] : [])];
  // Torch pads in advance: on one side if the padding is uneven, fully in modes other than zeros.
  const saved = namedAxes(layer).map(({ axis, letter }): Factor => {
    const { before, after } = axis;
    const more = layer.mode !== "zeros" ? before + after : layer.transposed ? 0 : Math.abs(after - before);
    return more ? [`${letter}_s`, axis.size + more] : [letter, axis.size];
  });
  const repeated = inputGradient && (layer.mode === "reflect" || layer.mode === "replicate");
  return {
    forward: { input: [input], parameters, output },
    backward: {
      parameterGradients: parameters,
      inputGradient: inputGradient ? [input] : [],
      outputGradient: output,
      savedActivations: [
        plus(images, ["c_i", layer.inChannels], ...saved, bytes),
        ...(repeated ? [input] : []),
      ],
    },
  };
}

/** The totals that a change of a layer is judged by, as `convolith.cost` names them. */
export const TOTALS = [
  "forward multiplications",
  "forward additions",
  "backward multiplications",
  "backward additions",
  "forward memory, bytes",
  "backward memory, bytes",
] as const;
export type Totals = Readonly<Record<(typeof TOTALS)[number], bigint>>;

export function totalsOf(layer: Layer, options: CostOptions): Totals {
  const operations = operationFormulas(layer, options);
  const memory = memoryFormulas(layer, options);
  const total = (formulas: readonly Formula[]): bigint => formulas.reduce((sum, formula) => sum + valueOf(formula), 0n);
  const backward = PASSES.slice(1).map((pass) => operations[pass]);
  return {
    "forward multiplications": valueOf(operations.forward.multiplications),
    "forward additions": valueOf(operations.forward.additions),
    "backward multiplications": total(backward.map((pass) => pass.multiplications)),
    "backward additions": total(backward.map((pass) => pass.additions)),
    "forward memory, bytes": total(Object.values(memory.forward)),
    "backward memory, bytes": total(Object.values(memory.backward)),
  };
}

/** Changes of a layer, as `LayerCost.scaled` names them, with the factor of the dimension. */
export const CHANGES = {
  channels2: ["channels", 2],
  channels3: ["channels", 3],
  padding2: ["padding", 2],
  size2: ["size", 2],
  stride2: ["stride", 2],
} as const;
export type Change = keyof typeof CHANGES;

/** Return whether each group has one input channel. */
export const isDepthwise = ({ groups, inChannels }: Layer): boolean => groups > 1 && groups === inChannels;

/** Return a layer with one of its dimensions multiplied; a depthwise layer stays depthwise. */
export function changedLayer(layer: Layer, change: Change): Layer {
  const [name, by] = CHANGES[change];
  if (name === "channels") {
    const groups = isDepthwise(layer) ? layer.groups * by : layer.groups;
    return { ...layer, inChannels: layer.inChannels * by, outChannels: layer.outChannels * by, groups };
  }
  const changed = (axis: Axis): Axis =>
    name === "padding"
      ? { ...axis, before: axis.before * by, after: axis.after * by }
      : { ...axis, [name]: axis[name] * by };
  return { ...layer, rows: layer.axes === 1 ? layer.rows : changed(layer.rows), columns: changed(layer.columns) };
}

/** Return the number of different inputs that some adjacent outputs read along one axis. */
export function readsOf(axis: Axis, outputs: number): number {
  const size = (outputs - 1) * axis.stride + extentOf(axis);
  const alone = { ...axis, size, before: 0, after: 0 };
  return axisCounts(alone, { mode: "zeros", transposed: false }, "dense").inputs;
}

/** Return the number of inputs per output that any number of adjacent outputs reads at least, along one axis. */
export function leastReads({ kernel, stride, dilation }: Axis): number {
  return new Set(Array.from({ length: kernel }, (_, tap) => (tap * dilation) % stride)).size;
}
