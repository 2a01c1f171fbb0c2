/** State of the view "Fold": two convolutions in a row or side by side, on one input. */

import {
  after,
  type Axis,
  type Fill,
  inputShape,
  kernelShape,
  type Layer,
  MODES,
  type Mode,
  named,
  refusal,
  SINGLE,
} from "../core";
import { fillText, type Reader, type Writer } from "./fields";

export interface BlockState {
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
  readonly k: Fill;
  readonly bias: Fill | null;
}

export const ARRANGEMENTS = ["row", "branches"] as const;
export type Arrangement = (typeof ARRANGEMENTS)[number];

export interface FoldState {
  readonly arrangement: Arrangement;
  readonly size: number;
  /** Channels of the input, between the two (in a row), and of the output. */
  readonly channels: readonly [into: number, hidden: number, out: number];
  readonly mode: Mode;
  /** In a row: whether a ReLU stands between the two. */
  readonly relu: boolean;
  /** In branches: whether the input itself is added. */
  readonly skip: boolean;
  readonly x: Fill;
  readonly blocks: readonly [BlockState, BlockState];
}

export const FOLD_BOUNDS = {
  size: [3, 10],
  channels: [1, 3],
  kernel: [1, 5],
  stride: [1, 3],
  padding: [0, 6],
  dilation: [1, 3],
} as const;

const BLOCK: BlockState = { kernel: 3, stride: 1, padding: 1, dilation: 1, k: named("edges"), bias: null };

/** Two 3x3 convolutions with padding, whose fold is wrong in a ring of pixels. */
export const FIRST_FOLD: FoldState = {
  arrangement: "row",
  size: 6,
  channels: [1, 1, 1],
  mode: "zeros",
  relu: false,
  skip: false,
  x: named("random"),
  blocks: [BLOCK, { ...BLOCK, k: named("ones") }],
};

/** Return the layers of the two blocks. */
export function foldLayers({ arrangement, size, channels, mode, blocks }: FoldState): [Layer, Layer] {
  const [into, hidden, out] = channels;
  const layer = (block: BlockState, inChannels: number, outChannels: number): Layer => {
    const axis: Axis = {
      ...SINGLE,
      size,
      kernel: block.kernel,
      stride: block.stride,
      before: block.padding,
      after: block.padding,
      dilation: block.dilation,
    };
    return { axes: 2, inChannels, outChannels, groups: 1, rows: axis, columns: axis, mode, transposed: false, flip: false };
  };
  if (arrangement === "branches") return [layer(blocks[0], into, out), layer(blocks[1], into, out)];
  const first = layer(blocks[0], into, hidden);
  return [first, after(first, layer(blocks[1], hidden, out))];
}

/** Return why the layers have no output, in words, or null. */
export function foldRefusal(state: FoldState): string | null {
  const [first, second] = foldLayers(state);
  const one = refusal(first);
  if (one) return `The first convolution: ${one}`;
  const two = refusal(second);
  return two && `The second convolution: ${two}`;
}

const FIELDS = [
  ["kernel", "kernel"],
  ["stride", "stride"],
  ["padding", "padding"],
  ["dilation", "dilation"],
] as const;

export function readFoldState(reader: Reader): FoldState {
  const usual = FIRST_FOLD;
  const size = reader.whole("fold.size", usual.size, FOLD_BOUNDS.size);
  const channels = reader.wholes("fold.channels", usual.channels, FOLD_BOUNDS.channels) as [number, number, number];
  const block = (n: 0 | 1): BlockState => {
    const read = Object.fromEntries(
      FIELDS.map(([field, key]) => [field, reader.whole(`fold.${key}${n + 1}`, usual.blocks[n][field], FOLD_BOUNDS[field])]),
    ) as Record<(typeof FIELDS)[number][0], number>;
    return { ...usual.blocks[n], ...read };
  };
  const shaped: FoldState = {
    arrangement: reader.choice("fold", ARRANGEMENTS, usual.arrangement),
    size,
    channels,
    mode: reader.choice("fold.mode", MODES, usual.mode),
    relu: reader.flag("fold.relu"),
    skip: reader.flag("fold.skip"),
    x: usual.x,
    blocks: [block(0), block(1)],
  };
  const layers = foldLayers(shaped);
  const filled = (n: 0 | 1): BlockState => ({
    ...shaped.blocks[n],
    k: reader.fill(`fold.k${n + 1}`, kernelShape(layers[n]), usual.blocks[n].k),
    bias:
      reader.text(`fold.b${n + 1}`) === null
        ? null
        : reader.fill(`fold.b${n + 1}`, [layers[n].outChannels], named("ones")),
  });
  return { ...shaped, x: reader.fill("fold.x", inputShape(layers[0]), usual.x), blocks: [filled(0), filled(1)] };
}

export function writeFoldState(state: FoldState, writer: Writer): void {
  const usual = FIRST_FOLD;
  writer.put("fold", state.arrangement, usual.arrangement);
  writer.wholes("fold.size", [state.size], [usual.size]);
  writer.wholes("fold.channels", state.channels, usual.channels);
  writer.put("fold.mode", state.mode, usual.mode);
  writer.put("fold.relu", state.relu ? "1" : "0", "0");
  writer.put("fold.skip", state.skip ? "1" : "0", "0");
  writer.fill("fold.x", state.x, usual.x);
  state.blocks.forEach((block, n) => {
    const before = usual.blocks[n]!;
    for (const [field, key] of FIELDS) writer.wholes(`fold.${key}${n + 1}`, [block[field]], [before[field]]);
    writer.fill(`fold.k${n + 1}`, block.k, before.k);
    if (block.bias) writer.put(`fold.b${n + 1}`, fillText(block.bias), "");
  });
}
