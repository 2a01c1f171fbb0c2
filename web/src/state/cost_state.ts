/** State of the view "Cost": one layer of any size, a change of it, and a strip of its outputs. */

import { type Change, CHANGES, type Convention, CONVENTIONS, type CostOptions, type Layer, MODES, SINGLE } from "../core";
import type { Reader, Writer } from "./fields";
import { readAxes, readChannels, writeAxes } from "./layer_state";

/** Bytes of an element, by dtype. */
export const ITEMSIZES = { float64: 8, float32: 4, bfloat16: 2, float16: 2 } as const;
export type Dtype = keyof typeof ITEMSIZES;
export const DTYPES = Object.keys(ITEMSIZES) as Dtype[];
export const CHANGE_NAMES = Object.keys(CHANGES) as Change[];

export interface CostState {
  readonly layer: Layer;
  readonly batch: number;
  readonly biased: boolean;
  readonly dtype: Dtype;
  readonly convention: Convention;
  /** Whether the gradient of the input is computed. */
  readonly inputGradient: boolean;
  readonly change: Change;
  /** Rows and columns of adjacent outputs that are computed together. */
  readonly strip: readonly [rows: number, columns: number];
}

export const COST_BOUNDS = {
  channels: [1, 2048],
  batch: [1, 1024],
  size: [1, 4096],
  kernel: [1, 63],
  stride: [1, 16],
  padding: [0, 1024],
  dilation: [1, 64],
  strip: [1, 24],
} as const;

/** The layer of the library's documentation of `cost`, as in the middle of a ResNet. */
export const FIRST_COST: CostState = {
  layer: {
    axes: 2,
    inChannels: 64,
    outChannels: 64,
    groups: 1,
    rows: { ...SINGLE, size: 56, kernel: 3, before: 1, after: 1 },
    columns: { ...SINGLE, size: 56, kernel: 3, before: 1, after: 1 },
    mode: "zeros",
    transposed: false,
    flip: false,
  },
  batch: 1,
  biased: false,
  dtype: "float32",
  convention: "dense",
  inputGradient: true,
  change: "channels2",
  strip: [1, 4],
};

export function costOptions({ batch, biased, convention, dtype, inputGradient }: CostState): CostOptions {
  return { batch, biased, convention, inputGradient, itemsize: ITEMSIZES[dtype] };
}

export function readCostState(reader: Reader): CostState {
  const usual = FIRST_COST;
  const axes = reader.choice("cost.axes", ["1", "2"], "2") === "1" ? 1 : 2;
  return {
    layer: {
      ...usual.layer,
      axes,
      ...readChannels(reader, usual.layer, COST_BOUNDS.channels, "cost."),
      ...readAxes(reader, axes, usual.layer.columns, COST_BOUNDS, "cost."),
      mode: reader.choice("cost.mode", MODES, "zeros"),
    },
    batch: reader.whole("cost.batch", usual.batch, COST_BOUNDS.batch),
    biased: reader.flag("cost.bias"),
    dtype: reader.choice("cost.dtype", DTYPES, usual.dtype),
    convention: reader.choice("cost.count", CONVENTIONS, usual.convention),
    inputGradient: !reader.flag("cost.first"),
    change: reader.choice("cost.change", CHANGE_NAMES, usual.change),
    strip: reader.wholes("cost.strip", usual.strip, COST_BOUNDS.strip) as [number, number],
  };
}

export function writeCostState(state: CostState, writer: Writer): void {
  const usual = FIRST_COST;
  const { layer } = state;
  writer.put("cost.axes", String(layer.axes), "2");
  writer.wholes("cost.channels", [layer.inChannels, layer.outChannels], [usual.layer.inChannels, usual.layer.outChannels]);
  writer.wholes("cost.groups", [layer.groups], [usual.layer.groups]);
  writeAxes(layer, usual.layer.columns, writer, "cost.");
  writer.put("cost.mode", layer.mode, usual.layer.mode);
  writer.wholes("cost.batch", [state.batch], [usual.batch]);
  writer.put("cost.bias", state.biased ? "1" : "0", "0");
  writer.put("cost.dtype", state.dtype, usual.dtype);
  writer.put("cost.count", state.convention, usual.convention);
  writer.put("cost.first", state.inputGradient ? "0" : "1", "0");
  writer.put("cost.change", state.change, usual.change);
  writer.wholes("cost.strip", state.strip, usual.strip);
}
