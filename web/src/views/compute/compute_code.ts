/** The computation of the view "Compute" as Python and as a command. */

import { fileNames } from "../../server/client";
import type { KernelNumbers } from "../../server/resources";
import type { ComputeState, KernelChoice } from "../../state";

/** Largest kernel that is written out in a command; larger ones are read from a file. */
const WRITTEN = 7;

/** Return the name of the file that holds the picture when it is saved. */
export function fileOf(picture: string): string {
  return `${(fileNames.get(picture) ?? picture).replace(/\.[a-z]+$/i, "").replace(/[^\w-]+/g, "_") || "picture"}.npy`;
}

function rows(values: readonly (readonly number[])[], space: string): string {
  return JSON.stringify(values).replaceAll("],[", `],${space}[`).replaceAll(",", `,${space}`).replaceAll(`,${space}${space}`, `,${space}`);
}

export function isWritten(kernel: KernelNumbers): boolean {
  return Math.max(...kernel.shape) <= WRITTEN;
}

/** Return the options that differ from the defaults, by name. */
function options(state: ComputeState): [string, string | number][] {
  const usual: [keyof ComputeState & string, string, string | number][] = [
    ["stride", "stride", 1],
    ["dilation", "dilation", 1],
    ["padding", "padding", "same"],
    ["mode", "padding_mode", "symmetric"],
    ["accuracy", "accuracy", "default"],
  ];
  return usual
    .filter(([key, , value]) => state[key] !== value && !(key === "mode" && state.padding === "valid"))
    .map(([key, name]) => [name, state[key] as string | number]);
}

export function computePython(state: ComputeState, picture: string, isBundled: boolean, kernel: KernelNumbers): string {
  const choice = state.kernel;
  const type = `"${state.dtype}"`;
  const given = options(state).map(([name, value]) => `, ${name}=${JSON.stringify(value)}`).join("");
  return [
    "import numpy as np",
    "",
    "import convolith as cl",
    ...(isBundled ? ["from convolith.web.pictures import bundled"] : []),
    "",
    isBundled ? `x = bundled("${picture}").array.astype(${type})` : `x = np.load("${fileOf(picture)}").astype(${type})`,
    kernelPython(choice, kernel, type),
    `y = cl.filter_image(x, k${given}${state.flip ? ", flip=True" : ""})`,
    "print([list(y.shape), float(y.min()), float(y.max())])",
  ].join("\n");
}

function kernelPython(choice: KernelChoice, kernel: KernelNumbers, type: string): string {
  if ("preset" in choice) {
    const given = Object.entries(choice.arguments).map(([name, value]) => `${name}=${value}`);
    return `k = np.asarray(cl.kernels.${choice.preset}(${given.join(", ")})).astype(${type})`;
  }
  if ("picture" in choice && !isWritten(kernel)) return `k = np.load("kernel.npy").astype(${type})`;
  return `k = np.array(${rows(kernel.values, " ")}, ${type})`;
}

/** Return the command; `hasColours` says whether the picture has a third axis. */
export function computeCommand(state: ComputeState, picture: string, kernel: KernelNumbers, hasColours: boolean): string {
  const taps = isWritten(kernel) ? `"${rows(kernel.values, "")}"` : "kernel.npy";
  const given = options(state).map(([name, value]) => ` --${name.replaceAll("_", "-")} ${value}`).join("");
  return `convolith correlate ${fileOf(picture)} ${taps}${hasColours ? " --axes 0,1" : ""}${given}${state.flip ? " --flip" : ""} -o result.npy`;
}
