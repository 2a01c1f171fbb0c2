/** Python code for the view "Field": fields by the library, paths by torch. */

import type { FieldState } from "../../state";
import type { Pixel } from "./field_arrays";

export function fieldCode({ layers, size }: FieldState, [row, column]: Pixel): string {
  const texts = layers.map(({ kind, kernel, stride, padding, dilation }) => `    ("${kind}", ${kernel}, ${stride}, ${padding}, ${dilation}),`);
  return [
    "import torch",
    "from torch import nn",
    "from torch.nn.functional import conv2d",
    "",
    "import convolith as cl",
    "",
    "layers = [  # kernel, stride, padding, dilation",
    ...texts,
    "]",
    "net = nn.Sequential(*(nn.Conv2d(1, 1, *own) if kind == \"conv\" else nn.MaxPool2d(*own) for kind, *own in layers))",
    `counted = cl.cost(net, input_shape=(1, 1, ${size}, ${size}), backward=False)`,
    "fields = [str(row.field) for row in counted.rows if row.depth]  # size by jump",
    "",
    "# Paths: how the output pixel of a net of ones changes with each pixel of the picture.",
    `x = torch.ones(1, 1, ${size}, ${size}, dtype=torch.float64, requires_grad=True)`,
    "y = x",
    "for _, kernel, *options in layers:",
    "    y = conv2d(y, torch.ones(1, 1, kernel, kernel).double(), None, *options)",
    `y[0, 0, ${row}, ${column}].backward()`,
    "print([fields, x.grad[0, 0].tolist()])",
  ].join("\n");
}
