/** The arrays of the layer that is shown, computed once for each state. */

import { computed } from "@preact/signals";
import {
  biasGradient,
  correlate,
  type Fill,
  filled,
  inputGradient,
  inputShape,
  kernelGradient,
  kernelShape,
  type Layer,
  type Maps,
  mapsOf,
  offset,
  outputShape,
  padded,
  replaced,
  sourceAt,
  type Tensor,
} from "../../core";
import { drawingRefusal } from "../../state";
import { layerState, setLayerState } from "../../state/store";
import type { GridModel } from "../../parts/board";

export interface Arrays {
  readonly layer: Layer;
  readonly maps: Maps;
  readonly x: Tensor;
  readonly paddedX: Tensor;
  readonly k: Tensor;
  readonly bias: Tensor | null;
  readonly y: Tensor;
  readonly dy: Tensor;
  readonly dx: Tensor;
  readonly dk: Tensor;
  readonly db: Tensor;
}

/** Why the layer is not drawn, or null. */
export const refused = computed(() => drawingRefusal(layerState.value.layer));

export const arrays = computed((): Arrays | null => {
  if (refused.value !== null) return null;
  const { layer, bias, ...fills } = layerState.value;
  const x = filled(fills.x, inputShape(layer));
  const k = filled(fills.k, kernelShape(layer));
  const b = bias && filled(bias, [layer.outChannels]);
  const dy = filled(fills.dy, outputShape(layer));
  return {
    layer,
    maps: mapsOf(layer),
    x,
    paddedX: padded(layer, x),
    k,
    bias: b,
    y: correlate(layer, x, k, b),
    dy,
    dx: inputGradient(layer, k, dy),
    dk: kernelGradient(layer, x, dy),
    db: biasGradient(dy),
  };
});

/** Name an element as NumPy does; the rows of a layer on one axis have no index. */
export function elementName(symbol: string, at: readonly number[], axes: 1 | 2): string {
  const shown = axes === 1 ? [...at.slice(0, -2), at.at(-1)!] : at;
  return `${symbol}[${shown.join(",")}]`;
}

/** Return the input that a place of the padded input repeats, or null for a zero. */
export function sourceOf(layer: Layer, at: readonly number[]): number[] | null {
  const [channel, row, column] = at as [number, number, number];
  const around = layer.transposed ? 0 : 1;
  const r = sourceAt(row - around * layer.rows.before, layer.rows.size, layer.mode);
  const c = sourceAt(column - around * layer.columns.before, layer.columns.size, layer.mode);
  return r < 0 || c < 0 ? null : [channel, r, c];
}

/** Return where an input stands in the padded input. */
export function placeOf(layer: Layer, at: readonly number[]): number[] {
  const [channel, row, column] = at as [number, number, number];
  return layer.transposed ? [...at] : [channel, row + layer.rows.before, column + layer.columns.before];
}

export function isPadding(layer: Layer, at: readonly number[]): boolean {
  const source = sourceOf(layer, at);
  return source === null || placeOf(layer, source).some((n, axis) => n !== at[axis]);
}

function editing(key: "x" | "k" | "dy", shape: readonly number[]) {
  return (at: readonly number[], value: number): void => {
    const values = filled(layerState.value[key] as Fill, shape);
    setLayerState({ [key]: { given: replaced(values, offset(shape, at), value) } });
  };
}

/** The input with its padding. */
export function inputGrid({ layer, paddedX }: Arrays): GridModel {
  const edit = editing("x", inputShape(layer));
  return {
    id: "x",
    values: paddedX,
    axes: layer.axes,
    nameOf: (at) => {
      const source = sourceOf(layer, at);
      return source ? elementName("x", source, layer.axes) : "padding";
    },
    isPadding: (at) => isPadding(layer, at),
    takes: (at) => sourceOf(layer, at) !== null,
    edit: (at, value) => edit(sourceOf(layer, at)!, value),
  };
}

/** An array of the layer as it is, editable if it is given. */
export function plainGrid(id: string, symbol: string, values: Tensor, axes: 1 | 2): GridModel {
  const edit = id === "k" || id === "dy" ? editing(id, values.shape) : undefined;
  return { id, values, axes, edit, nameOf: (at) => elementName(symbol, at, axes) };
}

/** The bias, or its gradient, as one row for each output channel. */
export function biasGrid(id: string, symbol: string, values: Tensor): GridModel {
  const channels = values.shape[0]!;
  const edit = (at: readonly number[], value: number): void => {
    setLayerState({ bias: { given: replaced(values, at[2]!, value) } });
  };
  return {
    id,
    values: { shape: [1, 1, channels], data: values.data },
    axes: 1,
    edit: id === "b" ? edit : undefined,
    nameOf: (at) => `${symbol}[${at[2]}]`,
  };
}
