/** State of the views of one layer: its geometry and the values of its input, kernel, bias and output gradient. */

import {
  type Axis,
  type Fill,
  inputShape,
  kernelShape,
  type Layer,
  MODES,
  named,
  outputShape,
  refusal,
  SINGLE,
  sizeOf,
} from "../core";
import { fillText, type Reader, type Writer } from "./fields";

export interface LayerState {
  readonly layer: Layer;
  readonly x: Fill;
  readonly k: Fill;
  readonly bias: Fill | null;
  readonly dy: Fill;
}

export const BOUNDS = {
  channels: [1, 6],
  size: [1, 16],
  length: [1, 32],
  kernel: [1, 7],
  stride: [1, 4],
  padding: [0, 12],
  dilation: [1, 4],
  outputPadding: [0, 3],
} as const;

/** Most cells of one figure: more take too long to draw, and are too small to read. */
export const MOST_CELLS = 6000;

/** The example of the chapter "Multiple Input and Multiple Output Channels" of Dive into Deep Learning. */
export const CHAPTER: LayerState = {
  layer: {
    axes: 2,
    inChannels: 2,
    outChannels: 1,
    groups: 1,
    rows: { ...SINGLE, size: 3, kernel: 2 },
    columns: { ...SINGLE, size: 3, kernel: 2 },
    mode: "zeros",
    transposed: false,
    flip: false,
  },
  x: named("count"),
  k: named("count"),
  bias: null,
  dy: named("ones"),
};

/** Return why a layer is not drawn, in words, or null. */
export function drawingRefusal(layer: Layer): string | null {
  const why = refusal(layer);
  if (why) return why;
  const around = (axis: Axis): number => axis.size + (layer.transposed ? 0 : axis.before + axis.after);
  const cells =
    layer.inChannels * around(layer.rows) * around(layer.columns) +
    sizeOf(kernelShape(layer)) +
    sizeOf(outputShape(layer));
  return cells > MOST_CELLS
    ? `The figure would have ${cells.toLocaleString("en")} cells; at most ${MOST_CELLS.toLocaleString("en")} are drawn. ` +
        "Make the input, the padding or the channels smaller."
    : null;
}

const AXIS_FIELDS = [
  ["kernel", "kernel"],
  ["stride", "stride"],
  ["dilation", "dilation"],
  ["outputPadding", "outpad"],
] as const;

export function readLayerState(reader: Reader): LayerState {
  const usual = CHAPTER.layer;
  const axes = reader.choice("axes", ["1", "2"], "2") === "1" ? 1 : 2;
  const flat = (value: number): number[] => (axes === 1 ? [value] : [value, value]);
  const size = reader.wholes("size", flat(3), BOUNDS[axes === 1 ? "length" : "size"]);
  const read = Object.fromEntries(
    AXIS_FIELDS.map(([field, key]) => [field, reader.wholes(key, flat(usual.columns[field]), BOUNDS[field])]),
  ) as Record<(typeof AXIS_FIELDS)[number][0], number[]>;
  const padding = reader.wholes("padding", [...flat(0), ...flat(0)], BOUNDS.padding);
  const axis = (place: number): Axis => ({
    size: size[place]!,
    kernel: read.kernel[place]!,
    stride: read.stride[place]!,
    dilation: read.dilation[place]!,
    outputPadding: read.outputPadding[place]!,
    before: padding[2 * place]!,
    after: padding[2 * place + 1]!,
  });
  const [inChannels, outChannels] = reader.wholes("channels", [2, 1], BOUNDS.channels) as [number, number];
  let groups = reader.whole("groups", 1, BOUNDS.channels);
  if (inChannels % groups || outChannels % groups) {
    reader.refuse("groups", `a divisor of ${inChannels} and of ${outChannels}`);
    groups = 1;
  }
  const transposed = reader.flag("transposed");
  let mode = reader.choice("mode", MODES, "zeros");
  if (transposed && mode !== "zeros") {
    reader.refuse("mode", "zeros, since the layer is transposed");
    mode = "zeros";
  }
  const layer: Layer = {
    axes,
    inChannels,
    outChannels,
    groups,
    rows: axes === 1 ? SINGLE : axis(0),
    columns: axis(axes - 1),
    mode,
    transposed,
    flip: reader.flag("flip"),
  };
  const fits = drawingRefusal(layer) === null;
  return {
    layer,
    x: reader.fill("x", inputShape(layer), CHAPTER.x),
    k: reader.fill("k", kernelShape(layer), CHAPTER.k),
    bias: reader.text("b") === null ? null : reader.fill("b", [outChannels], named("ones")),
    dy: fits ? reader.fill("dy", outputShape(layer), CHAPTER.dy) : (reader.text("dy"), CHAPTER.dy),
  };
}

export function writeLayerState(state: LayerState, writer: Writer): void {
  const { layer } = state;
  const usual = CHAPTER.layer;
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  writer.put("axes", String(layer.axes), "2");
  writer.wholes("channels", [layer.inChannels, layer.outChannels], [2, 1]);
  writer.wholes("groups", [layer.groups], [1]);
  writer.wholes("size", axes.map((axis) => axis.size), axes.map(() => usual.columns.size));
  for (const [field, key] of AXIS_FIELDS) {
    writer.wholes(key, axes.map((axis) => axis[field]), axes.map(() => usual.columns[field]));
  }
  writer.wholes("padding", axes.flatMap((axis) => [axis.before, axis.after]), axes.flatMap(() => [0, 0]));
  writer.put("mode", layer.mode, "zeros");
  writer.put("transposed", layer.transposed ? "1" : "0", "0");
  writer.put("flip", layer.flip ? "1" : "0", "0");
  writer.fill("x", state.x, CHAPTER.x);
  writer.fill("k", state.k, CHAPTER.k);
  if (state.bias) writer.put("b", fillText(state.bias), "");
  writer.fill("dy", state.dy, CHAPTER.dy);
}

/** Return the state with another geometry; groups and modes that no longer fit are replaced by the nearest that do. */
export function withLayer(state: LayerState, change: Partial<Layer>): LayerState {
  const layer: Layer = { ...state.layer, ...change };
  const divides = (n: number): boolean => layer.inChannels % n === 0 && layer.outChannels % n === 0;
  let groups = Math.min(layer.groups, layer.inChannels);
  while (!divides(groups)) groups--;
  const clear = (axis: Axis): Axis => {
    const most = Math.max(axis.stride, axis.dilation) - 1;
    return { ...axis, outputPadding: layer.transposed ? Math.min(axis.outputPadding, most) : 0 };
  };
  return {
    ...state,
    layer: {
      ...layer,
      groups,
      rows: layer.axes === 1 ? SINGLE : clear(layer.rows),
      columns: clear(layer.columns),
      mode: layer.transposed ? "zeros" : layer.mode,
    },
  };
}

/** Return the divisors that groups may be, from dense (1) on. */
export function groupChoices(layer: Layer): number[] {
  return Array.from({ length: layer.inChannels }, (_, i) => i + 1).filter(
    (n) => layer.inChannels % n === 0 && layer.outChannels % n === 0,
  );
}
