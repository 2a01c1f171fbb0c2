/** State of the view "Fold": two or three convolutions in a row or side by side, on one input. */

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
  /** Channels of the input, between the convolutions (in a row), and of the output: one more than convolutions. */
  readonly channels: readonly number[];
  readonly mode: Mode;
  /** In a row: whether a ReLU stands between any two. */
  readonly relu: boolean;
  /** In branches: whether the input itself is added. */
  readonly skip: boolean;
  readonly x: Fill;
  readonly blocks: readonly BlockState[];
}

export const FOLD_BOUNDS = {
  blocks: [2, 3],
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

/** Return the state with another number of convolutions: the last of three comes and goes, before the output's channels. */
export function withBlocks(state: FoldState, count: number): FoldState {
  const { blocks, channels } = state;
  if (count === blocks.length) return state;
  const [into, hidden] = channels as [number, number];
  const inner = count === 3 ? [into, hidden, hidden] : [into, hidden];
  return {
    ...state,
    blocks: count === 3 ? [...blocks, { ...BLOCK, stride: state.arrangement === "row" ? 1 : blocks[0]!.stride }] : blocks.slice(0, 2),
    channels: [...inner, channels.at(-1)!],
  };
}

/** Return the layers of the blocks. */
export function foldLayers({ arrangement, size, channels, mode, blocks }: FoldState): Layer[] {
  const row = arrangement === "row";
  const layers: Layer[] = [];
  for (const [n, block] of blocks.entries()) {
    const axis: Axis = {
      ...SINGLE,
      size,
      kernel: block.kernel,
      stride: block.stride,
      before: block.padding,
      after: block.padding,
      dilation: block.dilation,
    };
    const [inChannels, outChannels] = row ? [channels[n]!, channels[n + 1]!] : [channels[0]!, channels.at(-1)!];
    const layer: Layer = { axes: 2, inChannels, outChannels, groups: 1, rows: axis, columns: axis, mode, transposed: false, flip: false };
    layers.push(row && n ? after(layers[n - 1]!, layer) : layer);
  }
  return layers;
}

export const ORDINALS = ["first", "second", "third"] as const;

/** Return why the layers have no output, in words, or null. */
export function foldRefusal(state: FoldState): string | null {
  for (const [n, layer] of foldLayers(state).entries()) {
    const why = refusal(layer);
    if (why) return `The ${ORDINALS[n]} convolution: ${why}`;
  }
  return null;
}

const FIELDS = [
  ["kernel", "kernel"],
  ["stride", "stride"],
  ["padding", "padding"],
  ["dilation", "dilation"],
] as const;

export function readFoldState(reader: Reader): FoldState {
  const usual = withBlocks(FIRST_FOLD, reader.whole("fold.blocks", 2, FOLD_BOUNDS.blocks));
  const shaped: FoldState = {
    arrangement: reader.choice("fold", ARRANGEMENTS, usual.arrangement),
    size: reader.whole("fold.size", usual.size, FOLD_BOUNDS.size),
    channels: reader.wholes("fold.channels", usual.channels, FOLD_BOUNDS.channels),
    mode: reader.choice("fold.mode", MODES, usual.mode),
    relu: reader.flag("fold.relu"),
    skip: reader.flag("fold.skip"),
    x: usual.x,
    blocks: usual.blocks.map((block, n) => {
      const read = FIELDS.map(([field, key]) => [field, reader.whole(`fold.${key}${n + 1}`, block[field], FOLD_BOUNDS[field])]);
      return { ...block, ...Object.fromEntries(read) };
    }),
  };
  const layers = foldLayers(shaped);
  const filled = (block: BlockState, n: number): BlockState => ({
    ...block,
    k: reader.fill(`fold.k${n + 1}`, kernelShape(layers[n]!), block.k),
    bias:
      reader.text(`fold.b${n + 1}`) === null
        ? null
        : reader.fill(`fold.b${n + 1}`, [layers[n]!.outChannels], named("ones")),
  });
  return { ...shaped, x: reader.fill("fold.x", inputShape(layers[0]!), usual.x), blocks: shaped.blocks.map(filled) };
}

export function writeFoldState(state: FoldState, writer: Writer): void {
  const usual = withBlocks(FIRST_FOLD, state.blocks.length);
  writer.wholes("fold.blocks", [state.blocks.length], [2]);
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
