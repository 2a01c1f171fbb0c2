/** Python code for what a view shows; running it prints the numbers of the page. */

import { type Axis, type Block, filled, inputShape, type Layer, nested, type Tensor } from "../core";
import { ORDINALS } from "../state";
import type { FoldArrays } from "./fold/fold_arrays";
import type { Arrays } from "./layer/layer_arrays";

/** Write an array of float64 numbers; the row axis of a layer on one axis is left out. */
export function arrayText(values: Tensor, axes: 1 | 2): string {
  const dropped = axes === 1 && values.shape.length > 2 ? [values.shape.length - 2] : [];
  return `np.array(${JSON.stringify(nested(values, dropped)).replaceAll(",", ", ")}, float)`;
}

/** Write the options of a layer that differ from the defaults, as keyword arguments. */
export function optionsText(layer: Layer): string {
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const per = (key: keyof Axis): string => {
    const values = axes.map((axis) => axis[key]);
    return values.every((value) => value === values[0]) ? String(values[0]) : `(${values.join(", ")})`;
  };
  const options: string[] = [];
  for (const [key, name, usual] of [
    ["stride", "stride", 1],
    ["dilation", "dilation", 1],
    ["outputPadding", "output_padding", 0],
  ] as const) {
    if (axes.some((axis) => axis[key] !== usual)) options.push(`${name}=${per(key)}`);
  }
  if (axes.some((axis) => axis.before || axis.after)) {
    const even = axes.every((axis) => axis.before === axis.after);
    options.push(`padding=${even ? per("before") : `(${axes.map((a) => `(${a.before}, ${a.after})`).join(", ")},)`}`);
    if (layer.mode !== "zeros") options.push(`padding_mode="${layer.mode}"`);
  }
  if (layer.groups > 1) options.push(`groups=${layer.groups}`);
  if (layer.transposed) options.push("transposed=True");
  return options.map((option) => `, ${option}`).join("");
}

export function lookCode({ layer, x, k, bias }: Arrays): string {
  return [
    "import numpy as np",
    "",
    "import convolith as cl",
    "",
    `x = ${arrayText(x, layer.axes)}  # ${layer.inChannels} channels`,
    `k = ${arrayText(k, layer.axes)}`,
    ...(bias ? [`b = ${arrayText(bias, layer.axes)}`] : []),
    `layer = cl.Conv(k${bias ? ", b" : ""}${optionsText(layer)})`,
    `print(cl.${layer.flip ? "convolve" : "correlate"}(x, layer).tolist())`,
  ].join("\n");
}

export function backwardCode({ layer, x, k, bias, dy }: Arrays): string {
  const given = (values: Tensor): string => arrayText(values, layer.axes).replace(/^np\.array\((.*), float\)$/s, "$1");
  const leaf = (values: Tensor): string => `torch.tensor(${given(values)}, dtype=torch.float64, requires_grad=True)`;
  const names = ["x", "k", ...(bias ? ["b"] : [])];
  return [
    "import torch",
    "",
    "import convolith as cl",
    "",
    `x = ${leaf(x)}`,
    `k = ${leaf(k)}`,
    ...(bias ? [`b = ${leaf(bias)}`] : []),
    `dy = torch.tensor(${given(dy)}, dtype=torch.float64)`,
    ...torchCall(layer, bias !== null),
    "y.backward(dy)",
    `print([${names.map((name) => `${name}.grad.tolist()`).join(", ")}])`,
  ].join("\n");
}

/** Write the call that keeps the gradients: a `Conv` holds a copy of its weights, an argument does not. */
function torchCall(layer: Layer, biased: boolean): string[] {
  const call = layer.flip ? "convolve" : "correlate";
  const options = optionsText(layer);
  return layer.transposed
    ? [`y = cl.${call}(x, cl.Conv(k${biased ? ", b" : ""}${options}))`]
    : [`y = cl.${call}(x, k${biased ? ", b" : ""}${options})`];
}

export function foldCode({ state, blocks }: FoldArrays): string {
  const x = filled(state.x, inputShape(blocks[0]!.layer));
  const conv = ({ layer, kernel, bias }: Block): string =>
    `cl.Conv(${arrayText(kernel, 2)}${bias ? `, ${arrayText(bias, 2)}` : ""}${optionsText(layer)})`;
  const names: string[] = blocks.map((_, n) => (n < state.blocks.length ? ORDINALS[n]! : "itself"));
  const row = state.arrangement === "row";
  const between = (before: string): string => (state.relu ? `np.maximum(${before}, 0)` : before);
  const inRow = names.slice(1).reduce((before, name) => `${name}(${between(before)})`, "first(x)");
  return [
    "import numpy as np",
    "",
    "import convolith as cl",
    ...(row ? [] : ["from convolith.algebra import add"]),
    "",
    `x = ${arrayText(x, 2)}`,
    ...blocks.map((block, n) => `${names[n]} = ${conv(block)}`),
    `folded = ${row ? names.reduce((before, name) => `cl.compose(${before}, ${name}).conv`) : `add(${names.join(", ")})`}`,
    `expected = ${row ? inRow : names.map((name) => `${name}(x)`).join(" + ")}`,
    "print([folded.weight.tolist(), (folded(x) - expected).tolist()])",
  ].join("\n");
}
