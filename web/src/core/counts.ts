/** Operations and memory of a layer, by the definitions of `convolith.cost`. */

import type { Convention } from "./axis_counts";
import { type CostOptions, memoryFormulas, operationFormulas, type Pass, PASSES, valueOf } from "./cost";
import { type Axis, extentOf, type Layer } from "./layer";

export interface Operations {
  readonly multiplications: number;
  readonly additions: number;
}

export type Counts = Readonly<Record<Pass, Operations>>;

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

/** One image in float32, with all gradients. */
export const ONE_IMAGE: CostOptions = { batch: 1, biased: false, convention: "dense", itemsize: 4, inputGradient: true };

/** Count the operations of one image, forward and backward. */
export function countsOf(layer: Layer, biased: boolean, convention: Convention = "dense"): Counts {
  const formulas = operationFormulas(layer, { ...ONE_IMAGE, biased, convention });
  const counts = PASSES.map((pass) => {
    const { multiplications, additions } = formulas[pass];
    return [pass, { multiplications: Number(valueOf(multiplications)), additions: Number(valueOf(additions)) }];
  });
  return Object.fromEntries(counts) as Counts;
}

/** Compute the bytes that a layer holds, forward and backward, with `itemsize` bytes per element. */
export function memoryOf(layer: Layer, biased: boolean, itemsize = 4): Memory {
  const formulas = memoryFormulas(layer, { ...ONE_IMAGE, biased, itemsize });
  const numbers = (terms: object): unknown =>
    Object.fromEntries(Object.entries(terms).map(([term, formula]) => [term, Number(valueOf(formula))]));
  return { forward: numbers(formulas.forward), backward: numbers(formulas.backward) } as Memory;
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
