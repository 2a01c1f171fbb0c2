/** Python code of the view "Cost"; running it prints the numbers of the page. */

import { type Axis, CHANGES } from "../../core";
import type { CostState } from "../../state";
import { optionsText } from "../python";
import { stripSizes } from "./cost_strips";

const perAxis = (values: readonly number[]): string => (values.length === 1 ? `${values[0]}` : `(${values.join(", ")})`);

export function costCode(state: CostState): string {
  const { layer, batch, biased, dtype, convention, inputGradient } = state;
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const kernel = perAxis(axes.map((axis) => axis.kernel));
  const options = optionsText(layer);
  // The mode of a layer without padding changes nothing but the memory, and is left out of the options.
  const mode = layer.mode === "zeros" || options.includes("padding_mode") ? "" : `, padding_mode="${layer.mode}"`;
  const plain = { ...layer, mode: "zeros", groups: 1, rows: unpadded(layer.rows), columns: unpadded(layer.columns) } as const;
  const { size, outputs } = stripSizes(layer);
  const [name, by] = CHANGES[state.change];
  return [
    "import convolith as cl",
    "",
    "layer = cl.ConvSpec(",
    `    batch=${batch}, in_channels=${layer.inChannels}, out_channels=${layer.outChannels}, ` +
      `size=${perAxis(axes.map((axis) => axis.size))}, kernel_size=${kernel}${options}${mode}, ` +
      `bias=${biased ? "True" : "False"}, dtype="${dtype}",`,
    ")",
    `cost = cl.cost(layer, convention="${convention}"${inputGradient ? "" : ", input_gradient=False"})`,
    "print(cost.as_dict())  # print(cost) for tables",
    `print(cost.scaled(${name}=${by}).factors)`,
    "",
    "# a strip of outputs alone: products less additions are the inputs that it reads",
    `strip = cl.ConvSpec(in_channels=1, out_channels=1, size=${perAxis(size)}, kernel_size=${kernel}${optionsText(plain)})`,
    "reads = cl.cost(strip).backward.input_gradient",
    `print((reads.multiplications - reads.additions) / ${outputs})`,
  ].join("\n");
}

const unpadded = (axis: Axis): Axis => ({ ...axis, before: 0, after: 0 });
