/** Python code and a command that fit the kernel of the view "Fit"; running either prints the numbers of the page. */

import { FIT_EXAMPLES, type FitState, isDescent } from "../../state";

/** A picture of the fit: its name among the bundled ones, or that of the file that was read; `plain` if nothing in it was converted. */
export interface NamedPicture {
  readonly name: string;
  readonly bundled: boolean;
  /** Name of the uploaded file, or null where the page no longer knows it. */
  readonly file: string | null;
  readonly plain: boolean;
}

/** Return the options of a fit that differ from the defaults of `cl.fit`, as name and value. */
function options(state: FitState): [string, string | number | boolean][] {
  const found: [string, string | number | boolean][] = [];
  const put = (name: string, value: string | number | boolean, usual: unknown): void => {
    if (value !== usual) found.push([name, value]);
  };
  put("padding", state.padding, "valid");
  if (state.padding === "same") put("padding_mode", state.mode, "zeros");
  put("offset", state.offset, false);
  put("ridge", state.ridge, 0);
  put("nan", state.nan, "refuse");
  if (!isDescent(state.method)) {
    put("errors", state.errors, "white");
    return found;
  }
  found.push(["method", state.method], ["steps", state.steps]);
  if (state.rate !== null) found.push(["learning_rate", state.rate]);
  put("seed", state.seed, 0);
  if (state.huber !== null) found.push(["loss", "huber"], ["huber_delta", state.huber]);
  return found;
}

const literal = (value: string | number | boolean): string =>
  typeof value === "string" ? JSON.stringify(value) : typeof value === "boolean" ? (value ? "True" : "False") : String(value);

function sizeText(size: FitState["size"]): string {
  return size === "auto" ? '"auto"' : `(${size.join(", ")})`;
}

function pictureText(picture: NamedPicture, place: "before" | "after"): string {
  if (picture.bundled) return `bundled(${JSON.stringify(picture.name)}).array`;
  return `decode(Path(${JSON.stringify(picture.file ?? `${place}.npy`)}).read_bytes()).array`;
}

/** Write Python code that prints the kernel and the loss. */
export function fitCode(state: FitState, before: NamedPicture, after: NamedPicture): string {
  const example = state.source === "example";
  const given = example ? [before] : [before, after];
  const names = [...new Set(given.map((one) => (one.bundled ? "bundled" : "decode")))].sort();
  const known = FIT_EXAMPLES[state.example];
  const filled = Object.entries(known.arguments).map(([name, value]) => `${name}=${value}`);
  const call = ["planes(before)", "planes(after)", `kernel_size=${sizeText(state.size)}`];
  call.push(...options(state).map(([name, value]) => `${name}=${literal(value)}`));
  return [
    ...(names.includes("decode") ? ["from pathlib import Path", ""] : []),
    "import numpy as np",
    "",
    "import convolith as cl",
    `from convolith.web.pictures import ${names.join(", ")}`,
    "",
    `before = ${pictureText(before, "before")}`,
    ...(example
      ? [
          `kernel = cl.kernels.${known.preset}(${filled.join(", ")})`,
          'filtered = cl.filter_image(before.astype(float), kernel, padding_mode="symmetric")',
          "after = np.rint(filtered).clip(0, 255).astype(np.uint8)  # as a file has it",
        ]
      : [`after = ${pictureText(after, "after")}`]),
    "",
    "",
    "def planes(picture):  # one kernel for all colours: each is an image of one channel",
    "    images = np.moveaxis(np.atleast_3d(picture), -1, 0)[:, None]",
    '    return images if picture.dtype in ("float32", "float64") else images.astype(float)',
    "",
    "",
    `found = cl.fit(${call.join(", ")})`,
    "print([found.kernel[0, 0].tolist(), found.loss[-1]])",
  ].join("\n");
}

/** Files of a command: the uploaded ones where it reads them as the page does, or the arrays that the page saves. */
export function commandFiles(state: FitState, before: NamedPicture, after: NamedPicture): { files: [string, string]; saved: boolean } {
  const reads = (one: NamedPicture): boolean => one.plain && one.file !== null && /\.(png|jpe?g)$/i.test(one.file);
  if (state.source === "pictures" && reads(before) && reads(after) && before.file !== after.file) {
    return { files: [before.file!, after.file!], saved: false };
  }
  return { files: ["before.npy", "after.npy"], saved: true };
}

/** Write a command that prints the fit as JSON. */
export function fitCommand(state: FitState, before: NamedPicture, after: NamedPicture): string {
  const { files, saved } = commandFiles(state, before, after);
  const words = ["convolith fit", ...files.map(quoted), `--size ${state.size === "auto" ? "auto" : state.size.join(",")}`];
  if (saved) words.push("--axes 0,1");
  for (const [name, value] of options(state)) {
    if (name === "nan") words.push("--ignore-nan");
    else if (value === true) words.push(`--${name}`);
    else words.push(`--${name.replaceAll("_", "-")} ${value}`);
  }
  return [...words, "--json"].join(" ");
}

/** Return a file name as a word of a shell. */
function quoted(name: string): string {
  return /^[\w.,+@%/-]+$/.test(name) && !name.startsWith("-") ? name : `'./${name.replaceAll("'", "'\\''")}'`;
}
