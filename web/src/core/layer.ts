/** Geometry of one convolution layer on two axes, and the shape rules; a layer on one axis has a single row. */

export const MODES = ["zeros", "reflect", "symmetric", "replicate", "circular"] as const;
export type Mode = (typeof MODES)[number];

/** Geometry along one axis. `outputPadding` belongs to transposed layers. */
export interface Axis {
  readonly size: number;
  readonly kernel: number;
  readonly stride: number;
  readonly before: number;
  readonly after: number;
  readonly dilation: number;
  readonly outputPadding: number;
}

export interface Layer {
  /** Number of spatial axes: 1 (the rows then have size and kernel size 1) or 2. */
  readonly axes: 1 | 2;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly groups: number;
  readonly rows: Axis;
  readonly columns: Axis;
  readonly mode: Mode;
  readonly transposed: boolean;
  /** Whether the kernel is flipped: a convolution in the mathematical sense, instead of a correlation. */
  readonly flip: boolean;
}

export const SINGLE: Axis = { size: 1, kernel: 1, stride: 1, before: 0, after: 0, dilation: 1, outputPadding: 0 };

export function extentOf(axis: Axis): number {
  return axis.dilation * (axis.kernel - 1) + 1;
}

/** Return the number of outputs along an axis; less than 1 if the kernel does not fit. */
export function outputLength(axis: Axis, transposed: boolean): number {
  if (transposed) {
    return (axis.size - 1) * axis.stride + extentOf(axis) - axis.before - axis.after + axis.outputPadding;
  }
  return Math.floor((axis.size + axis.before + axis.after - extentOf(axis)) / axis.stride) + 1;
}

export function inputShape(layer: Layer): number[] {
  return [layer.inChannels, layer.rows.size, layer.columns.size];
}

export function outputShape(layer: Layer): number[] {
  return [layer.outChannels, outputLength(layer.rows, layer.transposed), outputLength(layer.columns, layer.transposed)];
}

/** Return the shape of the kernel: (out, in/groups, height, width), transposed (in, out/groups, height, width). */
export function kernelShape(layer: Layer): number[] {
  const [first, second] = layer.transposed
    ? [layer.inChannels, layer.outChannels]
    : [layer.outChannels, layer.inChannels];
  return [first, second / layer.groups, layer.rows.kernel, layer.columns.kernel];
}

/** Return why a layer has no output, in words, or null if it has one. */
export function refusal(layer: Layer): string | null {
  for (const [name, channels] of [["in", layer.inChannels], ["out", layer.outChannels]] as const) {
    if (channels % layer.groups) {
      return `${layer.groups} groups do not divide the ${channels} ${name} channels.`;
    }
  }
  if (layer.transposed && layer.mode !== "zeros") {
    return `A transposed convolution takes the padding mode zeros only, not ${layer.mode}.`;
  }
  for (const [name, axis] of [["row", layer.rows], ["column", layer.columns]] as const) {
    if (axis.outputPadding && axis.outputPadding >= Math.max(axis.stride, axis.dilation)) {
      return `The output padding ${axis.outputPadding} must be less than the stride ${axis.stride} or the dilation ${axis.dilation}.`;
    }
    if (outputLength(axis, layer.transposed) >= 1) continue;
    if (layer.transposed) {
      return `The padding removes every output ${name}: make the padding smaller, or the input larger.`;
    }
    const padded = axis.size + axis.before + axis.after;
    return (
      `The kernel spans ${extentOf(axis)} ${name}s, but the padded input has ${padded}: ` +
      "make the input or the padding larger, or the kernel or its dilation smaller."
    );
  }
  return null;
}

/** Return the padding of "valid", "same" or "full" along an axis, the smaller half first. */
export function namedPadding(name: "valid" | "same" | "full", axis: Axis): [number, number] {
  if (name === "valid") return [0, 0];
  const extent = extentOf(axis);
  if (name === "full") return [extent - 1, extent - 1];
  const outputs = Math.ceil(axis.size / axis.stride);
  const total = axis.stride === 1 ? extent - 1 : Math.max((outputs - 1) * axis.stride + extent - axis.size, 0);
  return [Math.floor(total / 2), total - Math.floor(total / 2)];
}

/** Return the input position that a position repeats, counted from the first input; -1 where the padding is zero. */
export function sourceAt(position: number, size: number, mode: Mode): number {
  const within = (period: number): number => ((position % period) + period) % period;
  switch (mode) {
    case "zeros":
      return position >= 0 && position < size ? position : -1;
    case "circular":
      return within(size);
    case "replicate":
      return Math.min(Math.max(position, 0), size - 1);
    case "symmetric": {
      const place = within(2 * size);
      return Math.min(place, 2 * size - 1 - place);
    }
    case "reflect":
      return size - 1 - Math.abs(size - 1 - within(Math.max(2 * size - 2, 1)));
  }
}

/**
 * Which input each output meets at each tap, along one axis: entry `output * kernel + tap`.
 *
 * `source` is the input, or -1 for a zero of the padding or (transposed) no input; `place` is the position in the
 * padded input, counted from its first element, or -1 for none. Taps are those of the stored kernel, also if flipped.
 */
export interface AxisMap {
  readonly outputs: number;
  readonly kernel: number;
  readonly source: Int32Array;
  readonly place: Int32Array;
}

export function axisMap(axis: Axis, layer: Pick<Layer, "mode" | "transposed" | "flip">): AxisMap {
  const outputs = Math.max(outputLength(axis, layer.transposed), 0);
  const source = new Int32Array(outputs * axis.kernel).fill(-1);
  const place = new Int32Array(outputs * axis.kernel).fill(-1);
  for (let output = 0; output < outputs; output++) {
    for (let tap = 0; tap < axis.kernel; tap++) {
      const entry = output * axis.kernel + tap;
      const step = axis.dilation * (layer.flip ? axis.kernel - 1 - tap : tap);
      if (layer.transposed) {
        const input = (output + axis.before - step) / axis.stride;
        if (Number.isInteger(input) && input >= 0 && input < axis.size) source[entry] = place[entry] = input;
      } else {
        place[entry] = output * axis.stride + step;
        source[entry] = sourceAt(place[entry]! - axis.before, axis.size, layer.mode);
      }
    }
  }
  return { outputs, kernel: axis.kernel, source, place };
}
