/** State of the view "Compute": a picture, a kernel and how they are correlated. */

import { type Reader, type Writer } from "./fields";

export const COMPUTE_MODES = ["symmetric", "reflect", "replicate", "circular", "zeros"] as const;
export const COMPUTE_PADDINGS = ["same", "valid", "full"] as const;
export const COMPUTE_DTYPES = ["float32", "float64", "float16", "int32"] as const;
export const COMPUTE_ACCURACIES = ["default", "exact", "fast", "double"] as const;

export const COMPUTE_BOUNDS = {
  /** Rows and columns of a kernel that is typed in; larger ones are uploaded. */
  kernel: [1, 31],
  /** Rows and columns of a kernel that is drawn. */
  drawn: [1, 13],
  step: [1, 8],
} as const;

/** A kernel: a preset with the arguments that differ from its defaults, rows of numbers, or an uploaded array. */
export type KernelChoice =
  | { readonly preset: string; readonly arguments: Readonly<Record<string, number>> }
  | { readonly values: readonly (readonly number[])[] }
  | { readonly picture: string };

export interface ComputeState {
  /** Name of a bundled picture, or the identifier of an upload. */
  readonly picture: string;
  readonly kernel: KernelChoice;
  readonly padding: (typeof COMPUTE_PADDINGS)[number];
  readonly mode: (typeof COMPUTE_MODES)[number];
  readonly stride: number;
  readonly dilation: number;
  readonly dtype: (typeof COMPUTE_DTYPES)[number];
  readonly accuracy: (typeof COMPUTE_ACCURACIES)[number];
  readonly flip: boolean;
}

/** A blur of the first bundled picture; "" stands for the first picture that the server has. */
export const FIRST_COMPUTE: ComputeState = {
  picture: "",
  kernel: { preset: "gaussian", arguments: {} },
  padding: "same",
  mode: "symmetric",
  stride: 1,
  dilation: 1,
  dtype: "float32",
  accuracy: "default",
  flip: false,
};

/** Identifiers and names of the server, as they stand in addresses. */
const NAME = /^[\w-]{1,64}$/;
const NUMBER = /^-?\d+(\.\d+)?(e-?\d+)?$/i;
/** Largest magnitude of a value that the server takes. */
const LARGEST = 1e30;

function readNumber(text: string): number {
  const value = NUMBER.test(text) ? Number(text) : NaN;
  return Math.abs(value) <= LARGEST ? value : NaN;
}

/** Read a name of the server: of a picture, or of a kernel. */
export function readName(reader: Reader, key: string, usual: string): string {
  const value = reader.text(key);
  if (value === null || NAME.test(value)) return value ?? usual;
  reader.refuse(key, "a name of letters, digits, - and _");
  return usual;
}

function readArguments(reader: Reader): Record<string, number> {
  const text = reader.text("compute.arguments");
  if (text === null) return {};
  const entries = text.split("~").map((part) => part.split(":"));
  const found = Object.fromEntries(entries.map(([name, value]) => [name!, readNumber(value ?? "")]));
  const valid = entries.every((entry) => entry.length === 2 && NAME.test(entry[0]!)) && Object.values(found).every(Number.isFinite);
  if (valid && Object.keys(found).length === entries.length) return found;
  reader.refuse("compute.arguments", "names and numbers, such as sigma:2~size:9");
  return {};
}

function readKernel(reader: Reader): KernelChoice {
  const usual = FIRST_COMPUTE.kernel;
  const preset = readName(reader, "compute.kernel", "gaussian");
  const given = readArguments(reader);
  const upload = readName(reader, "compute.upload", "");
  const [rows, columns] = reader.wholes("compute.size", [3, 3], COMPUTE_BOUNDS.kernel) as [number, number];
  const text = reader.text("compute.values");
  if (text !== null) {
    const numbers = text.split("_").map(readNumber);
    if (numbers.length === rows * columns && numbers.every(Number.isFinite)) {
      return { values: Array.from({ length: rows }, (_, row) => numbers.slice(row * columns, (row + 1) * columns)) };
    }
    reader.refuse("compute.values", `${rows * columns} numbers joined by _`);
    return usual;
  }
  return upload ? { picture: upload } : { preset, arguments: given };
}

export function readComputeState(reader: Reader): ComputeState {
  const usual = FIRST_COMPUTE;
  return {
    picture: readName(reader, "compute.picture", usual.picture),
    kernel: readKernel(reader),
    padding: reader.choice("compute.padding", COMPUTE_PADDINGS, usual.padding),
    mode: reader.choice("compute.mode", COMPUTE_MODES, usual.mode),
    stride: reader.whole("compute.stride", usual.stride, COMPUTE_BOUNDS.step),
    dilation: reader.whole("compute.dilation", usual.dilation, COMPUTE_BOUNDS.step),
    dtype: reader.choice("compute.dtype", COMPUTE_DTYPES, usual.dtype),
    accuracy: reader.choice("compute.accuracy", COMPUTE_ACCURACIES, usual.accuracy),
    flip: reader.flag("compute.flip"),
  };
}

const numberText = (value: number): string => String(value).replace("+", "");

export function writeComputeState(state: ComputeState, writer: Writer): void {
  const usual = FIRST_COMPUTE;
  const { kernel } = state;
  writer.put("compute.picture", state.picture, usual.picture);
  if ("preset" in kernel) {
    writer.put("compute.kernel", kernel.preset, "gaussian");
    const given = Object.entries(kernel.arguments).map(([name, value]) => `${name}:${numberText(value)}`);
    writer.put("compute.arguments", given.join("~"), "");
  } else if ("values" in kernel) {
    writer.wholes("compute.size", [kernel.values.length, kernel.values[0]!.length], [3, 3]);
    writer.put("compute.values", kernel.values.flat().map(numberText).join("_"), "");
  } else {
    writer.put("compute.upload", kernel.picture, "");
  }
  writer.put("compute.padding", state.padding, usual.padding);
  writer.put("compute.mode", state.mode, usual.mode);
  writer.wholes("compute.stride", [state.stride], [usual.stride]);
  writer.wholes("compute.dilation", [state.dilation], [usual.dilation]);
  writer.put("compute.dtype", state.dtype, usual.dtype);
  writer.put("compute.accuracy", state.accuracy, usual.accuracy);
  writer.put("compute.flip", state.flip ? "1" : "0", "0");
}
