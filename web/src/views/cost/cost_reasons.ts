/** Why a change of a layer multiplies its products as it does, in a sentence that is true for this layer. */

import { type Change, CHANGES, type Convention, isDepthwise, type Layer, outputShape, sizeOf, type Totals } from "../../core";

/** Write a factor with up to four digits; ≈ says that there are more. */
export function factorOf(before: number | bigint, after: number | bigint): string {
  if (!before) return after ? "–" : "1 ×";
  const factor = Number(after) / Number(before);
  const written = Number(factor.toPrecision(4));
  return `${Math.abs(factor - written) < 1e-12 * factor ? "" : "≈ "}${written} ×`;
}

const TIMES = { 2: "twice", 3: "three times" } as const;

export function reasonOf(
  before: Layer,
  after: Layer,
  change: Change,
  convention: Convention,
  was: Totals,
  becomes: Totals,
): string {
  const [name, by] = CHANGES[change];
  if (name === "channels") return channelsReason(before, by);
  const [from, to] = [before, after].map((layer) => outputShape(layer).slice(3 - layer.axes));
  const outputs = factorOf(sizeOf(from!), sizeOf(to!));
  const products = factorOf(was["forward multiplications"], becomes["forward multiplications"]);
  const [old, fresh] = [from!.join(" × "), to!.join(" × ")];
  const axis = before.axes === 1 ? "" : " along each axis";
  const follow =
    outputs === products
      ? "and the products change by this factor too"
      : convention === "effective"
        ? `and the products that meet an input, not only zeros of the padding, become ${products}`
        : "";
  switch (name) {
    case "padding":
      if (![before.rows, before.columns].some((side) => side.before || side.after)) {
        return "This layer has no padding to double: nothing changes.";
      }
      if (old === fresh) {
        return (
          `The output stays ${old}: the padding that is added is too little for one more step of the stride, ` +
          `${outputs === products ? "and so the products stay too" : follow}.`
        );
      }
      return (
        `Padding is added to the size, not multiplied with it: the output grows from ${old} to ${fresh}, ` +
        `which is ${outputs} the outputs, ${follow}.`
      );
    case "size": {
      const pixels = by ** before.axes;
      const exact = outputs === `${pixels} ×`;
      return (
        `The input is ${TIMES[by]} as long${axis}; the output goes from ${old} to ${fresh}, ${outputs} the outputs ` +
        `(${exact ? "exactly as much as the input" : "kernel, padding and stride do not grow with the input"}), ${follow}.`
      );
    }
    case "stride":
      return old === fresh
        ? `There is a single output${axis}, whose window stays: nothing changes.`
        : `Every second output${axis} is left out: ${old} becomes ${fresh}, ${outputs} the outputs, ${follow}.`;
  }
}

function channelsReason(layer: Layer, by: 2 | 3): string {
  return isDepthwise(layer)
    ? `The layer is depthwise and stays so: there are ${TIMES[by]} as many outputs, but each still sums one input ` +
        "channel. The weights grow as much, and so do input and output."
    : `There are ${TIMES[by]} as many outputs, and each sums ${TIMES[by]} as many input channels: ${by} · ${by} = ${by * by} ` +
        `times the products and the weights. Input and output take only ${TIMES[by]} the memory.`;
}
