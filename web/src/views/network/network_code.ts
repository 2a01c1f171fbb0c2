/** Python code and commands that count and fold the model of the view "Network"; running them prints the numbers of the page. */

import type { NetworkState } from "../../state";

/** Write Python code that prints counts, peak and largest batch, and what folding leaves. */
export function networkCode(state: NetworkState, model: string): string {
  const [module, name] = model.split(":") as [string, string];
  const [first, ...rest] = name.split(".") as [string, ...string[]];
  const own = [first, ...rest].join(".");
  const shapes = state.inputs.map(tuple);
  const shape = shapes.length === 1 ? shapes[0]! : `[${shapes.join(", ")}]`;
  const trained = state.optimizer !== "none";
  const counted = ["counted.forward.multiplications", "counted.forward.additions", "counted.parameters"];
  if (trained) counted.push("counted.peak.bytes");
  if (trained && state.memory !== null) counted.push(`counted.largest_batch(${state.memory})`);
  return [
    "import torch",
    `from ${module} import ${first}`,
    "",
    "import convolith as cl",
    "",
    `model = ${own} if isinstance(${own}, torch.nn.Module) else ${own}()`,
    `model.train(${state.train ? "True" : "False"})`,
    `counted = cl.cost(model, input_shape=${shape}${trained ? `, optimizer="${state.optimizer}"` : ""})`,
    `numbers = [${counted.join(", ")}]`,
    ...(state.fold
      ? [
          "dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)",
          `inputs = tuple(torch.randn(shape).to(dtype) for shape in [${shapes.join(", ")}])`,
          "report = cl.fold(model.eval(), inputs).report",
          "numbers += [report.multiplications_before, report.multiplications_after]",
        ]
      : []),
    "print(numbers)",
  ].join("\n");
}

const tuple = (shape: readonly number[]): string => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

/** Write the commands that print costs and folds as JSON. */
export function networkCommands(state: NetworkState, model: string): string {
  const inputs = state.inputs.map((shape) => `--input ${shape.join(",")}`).join(" ");
  const step = state.optimizer === "none" ? "" : ` --peak ${state.optimizer}`;
  const memory = state.memory === null ? "" : ` --fits ${state.memory}`;
  const cost = `convolith cost ${model} ${inputs}${state.train ? " --train" : ""}${step}${memory} --json`;
  return state.fold ? `${cost}\nconvolith fold ${model} ${inputs} --json` : cost;
}
