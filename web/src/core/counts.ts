/** Operations and memory of a layer, by the definitions of `convolith.cost`. */

import { axisMap, type Axis, extentOf, inputShape, kernelShape, type Layer, outputLength, outputShape } from "./layer";
import { sizeOf } from "./tensor";

export const CONVENTIONS = ["dense", "effective"] as const;
export type Convention = (typeof CONVENTIONS)[number];

export interface Operations {
  readonly multiplications: number;
  readonly additions: number;
}

export interface Counts {
  readonly forward: Operations;
  readonly inputGradient: Operations;
  readonly kernelGradient: Operations;
  readonly biasGradient: Operations;
}

/** Bytes held, by term. */
export interface Memory {
  readonly forward: { readonly input: number; readonly parameters: number; readonly output: number };
  readonly backward: {
    readonly parameterGradients: number;
    readonly inputGradient: number;
    readonly outputGradient: number;
    readonly savedActivations: number;
  };
}

/** Counts along one axis of an ordinary correlation; a layer's counts are their products over the axes. */
interface AxisCounts {
  readonly products: number;
  readonly outputs: number;
  readonly inputs: number;
  readonly taps: number;
}

function axisCounts(axis: Axis, layer: Layer, convention: Convention): AxisCounts {
  // A transposed layer is the adjoint of an ordinary one, whose input is the transposed one's output.
  const ordinary = layer.transposed ? { ...axis, size: outputLength(axis, true), outputPadding: 0 } : axis;
  const map = axisMap(ordinary, { mode: layer.mode, transposed: false, flip: false });
  const outputs = layer.transposed ? axis.size : map.outputs;
  const seen = { outputs: new Set<number>(), inputs: new Set<number>(), taps: new Set<number>() };
  let products = 0;
  for (let entry = 0; entry < outputs * axis.kernel; entry++) {
    if (convention === "effective" && map.source[entry]! < 0) continue;
    products++;
    seen.outputs.add(Math.floor(entry / axis.kernel));
    seen.taps.add(entry % axis.kernel);
    seen.inputs.add(convention === "effective" ? map.source[entry]! : map.place[entry]!);
  }
  return { products, outputs: seen.outputs.size, inputs: seen.inputs.size, taps: seen.taps.size };
}

/** Count the operations of one image, forward and backward. */
export function countsOf(layer: Layer, biased: boolean, convention: Convention = "dense"): Counts {
  const rows = axisCounts(layer.rows, layer, convention);
  const columns = axisCounts(layer.columns, layer, convention);
  const near = rows.inputs * columns.inputs;
  const far = rows.outputs * columns.outputs;
  const [read, written] = layer.transposed ? [far, near] : [near, far];
  const channels = (layer.inChannels * layer.outChannels) / layer.groups;
  const total = channels * rows.products * columns.products;
  const bias = biased ? sizeOf(outputShape(layer)) : 0;
  return {
    forward: { multiplications: total, additions: total - layer.outChannels * written + bias },
    inputGradient: { multiplications: total, additions: total - layer.inChannels * read },
    kernelGradient: {
      multiplications: total,
      additions: Math.max(total - channels * rows.taps * columns.taps, 0),
    },
    biasGradient: { multiplications: 0, additions: Math.max(bias - layer.outChannels, 0) },
  };
}

/** Compute the bytes that a layer holds, forward and backward, with `itemsize` bytes per element. */
export function memoryOf(layer: Layer, biased: boolean, itemsize = 4): Memory {
  const input = sizeOf(inputShape(layer)) * itemsize;
  const output = sizeOf(outputShape(layer)) * itemsize;
  const parameters = (sizeOf(kernelShape(layer)) + (biased ? layer.outChannels : 0)) * itemsize;
  // Torch pads in advance: on one side if the padding is uneven, fully in modes other than zeros.
  const around = (axis: Axis): number =>
    layer.mode !== "zeros" ? axis.before + axis.after : layer.transposed ? 0 : Math.abs(axis.after - axis.before);
  const paddedRows = layer.rows.size + around(layer.rows);
  const paddedColumns = layer.columns.size + around(layer.columns);
  const repeats = layer.mode === "reflect" || layer.mode === "replicate" ? input : 0;
  return {
    forward: { input, parameters, output },
    backward: {
      parameterGradients: parameters,
      inputGradient: input,
      outputGradient: output,
      savedActivations: layer.inChannels * paddedRows * paddedColumns * itemsize + repeats,
    },
  };
}

/** Receptive field of one axis after a chain of layers: its size, and the distance between neighbouring outputs. */
export function receptiveField(chain: readonly Axis[]): { size: number; stride: number } {
  let size = 1;
  let stride = 1;
  for (const axis of chain) {
    size += (extentOf(axis) - 1) * stride;
    stride *= axis.stride;
  }
  return { size, stride };
}
