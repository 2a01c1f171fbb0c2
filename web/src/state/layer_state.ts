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
import { type Bounds, fillText, type Reader, type Writer } from "./fields";

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

type AxisBounds = Partial<Record<keyof Axis, Bounds>> & Record<"size" | "padding", Bounds>;

/** Read the axes of a layer; `bounds` says which fields there are, and `prefix` begins their names in the address. */
export function readAxes(
  reader: Reader,
  axes: 1 | 2,
  usual: Axis,
  bounds: AxisBounds,
  prefix = "",
): Pick<Layer, "rows" | "columns"> {
  const flat = (value: number): number[] => (axes === 1 ? [value] : [value, value]);
  const read = [["size", "size"] as const, ...AXIS_FIELDS].map(([field, key]): [keyof Axis, number[]] => {
    const limits = bounds[field];
    return [field, limits ? reader.wholes(prefix + key, flat(usual[field]), limits) : flat(usual[field])];
  });
  const around = [usual.before, usual.after];
  const padding = reader.wholes(`${prefix}padding`, axes === 1 ? around : [...around, ...around], bounds.padding);
  const axis = (place: number): Axis => ({
    ...usual,
    ...Object.fromEntries(read.map(([field, values]) => [field, values[place]!])),
    before: padding[2 * place]!,
    after: padding[2 * place + 1]!,
  });
  return { rows: axes === 1 ? SINGLE : axis(0), columns: axis(axes - 1) };
}

export function writeAxes(layer: Layer, usual: Axis, writer: Writer, prefix = ""): void {
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  for (const [field, key] of [["size", "size"] as const, ...AXIS_FIELDS]) {
    writer.wholes(prefix + key, axes.map((axis) => axis[field]), axes.map(() => usual[field]));
  }
  const around = (axis: Axis): number[] => [axis.before, axis.after];
  writer.wholes(`${prefix}padding`, axes.flatMap(around), axes.flatMap(() => around(usual)));
}

/** Read the channels of a layer and its groups, which divide both. */
export function readChannels(
  reader: Reader,
  usual: Layer,
  bounds: Bounds,
  prefix = "",
): Pick<Layer, "inChannels" | "outChannels" | "groups"> {
  const both = [usual.inChannels, usual.outChannels];
  const [inChannels, outChannels] = reader.wholes(`${prefix}channels`, both, bounds) as [number, number];
  const groups = reader.whole(`${prefix}groups`, usual.groups, bounds);
  if (inChannels % groups === 0 && outChannels % groups === 0) return { inChannels, outChannels, groups };
  reader.refuse(`${prefix}groups`, `a divisor of ${inChannels} and of ${outChannels}`);
  return { inChannels, outChannels, groups: 1 };
}

export function readLayerState(reader: Reader): LayerState {
  const usual = CHAPTER.layer;
  const axes = reader.choice("axes", ["1", "2"], "2") === "1" ? 1 : 2;
  const bounds = axes === 1 ? { ...BOUNDS, size: BOUNDS.length } : BOUNDS;
  const geometry = readAxes(reader, axes, usual.columns, bounds);
  const channels = readChannels(reader, usual, BOUNDS.channels);
  const transposed = reader.flag("transposed");
  let mode = reader.choice("mode", MODES, "zeros");
  if (transposed && mode !== "zeros") {
    reader.refuse("mode", "zeros, since the layer is transposed");
    mode = "zeros";
  }
  const layer: Layer = {
    axes,
    ...channels,
    ...geometry,
    mode,
    transposed,
    flip: reader.flag("flip"),
  };
  const fits = drawingRefusal(layer) === null;
  return {
    layer,
    x: reader.fill("x", inputShape(layer), CHAPTER.x),
    k: reader.fill("k", kernelShape(layer), CHAPTER.k),
    bias: reader.text("b") === null ? null : reader.fill("b", [layer.outChannels], named("ones")),
    dy: fits ? reader.fill("dy", outputShape(layer), CHAPTER.dy) : (reader.text("dy"), CHAPTER.dy),
  };
}

export function writeLayerState(state: LayerState, writer: Writer): void {
  const { layer } = state;
  const usual = CHAPTER.layer;
  writer.put("axes", String(layer.axes), "2");
  writer.wholes("channels", [layer.inChannels, layer.outChannels], [2, 1]);
  writer.wholes("groups", [layer.groups], [1]);
  writeAxes(layer, usual.columns, writer);
  writer.put("mode", layer.mode, "zeros");
  writer.put("transposed", layer.transposed ? "1" : "0", "0");
  writer.put("flip", layer.flip ? "1" : "0", "0");
  writer.fill("x", state.x, CHAPTER.x);
  writer.fill("k", state.k, CHAPTER.k);
  if (state.bias) writer.put("b", fillText(state.bias), "");
  writer.fill("dy", state.dy, CHAPTER.dy);
}

/** Return the state with another geometry; groups and modes that no longer fit are replaced by the nearest that do. */
export function withLayer<S extends { readonly layer: Layer }>(state: S, change: Partial<Layer>): S {
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
