/** The arrays of the view "Fold", computed once for each state. */

import { computed } from "@preact/signals";
import {
  applyBlock,
  beyondBorder,
  type Block,
  branchRefusal,
  compose,
  countsOf,
  factor,
  type Factors,
  filled,
  type Folded,
  inputShape,
  kernelShape,
  padded,
  SINGLE,
  sumBranches,
  tensor,
  type Tensor,
  zeros,
} from "../../core";
import { type BlockState, foldLayers, foldRefusal, type FoldState } from "../../state";
import { foldState } from "../../state/store";

export interface FoldArrays {
  readonly state: FoldState;
  /** The two convolutions, and in branches the input itself, if it is added. */
  readonly blocks: readonly Block[];
  readonly folded: Folded;
  /** The input with the padding that the folded convolution reads. */
  readonly x: Tensor;
  /** In a row: what the second reads, and by how much the folded convolution's values there differ. */
  readonly hidden: Tensor | null;
  readonly missing: Tensor | null;
  readonly expected: Tensor;
  readonly output: Tensor;
  readonly difference: Tensor;
  /** Multiplications before and after. */
  readonly before: number;
  readonly after: number;
}

function foldedRefusal(state: FoldState): string | null {
  const why = foldRefusal(state);
  if (why || state.arrangement === "row") return why;
  const layers = foldLayers(state);
  if (state.skip && state.channels[0] !== state.channels[2]) {
    return "The input can be added only to an output of as many channels.";
  }
  const [{ stride }] = state.blocks;
  if (state.skip && stride > 1) return "The input can be added only at stride 1: otherwise, it has more pixels than the output.";
  return branchRefusal(state.skip ? [...layers, identity(state).layer] : layers);
}

/** Why nothing is drawn, or null. */
export const foldRefused = computed(() => foldedRefusal(foldState.value));

/** Return the convolution that gives the input back. */
function identity(state: FoldState): Block {
  const [layer] = foldLayers(state);
  const axis = { ...SINGLE, size: state.size };
  const single = { ...layer, rows: axis, columns: axis };
  const kernel = zeros(kernelShape(single));
  for (let channel = 0; channel < single.outChannels; channel++) kernel.data[channel * (single.inChannels + 1)] = 1;
  return { layer: single, kernel, bias: null };
}

export const foldArrays = computed((): FoldArrays | null => {
  const state = foldState.value;
  if (foldRefused.value !== null) return null;
  const layers = foldLayers(state);
  const blocks = layers.map((layer, n): Block => {
    const { k, bias } = state.blocks[n] as BlockState;
    return { layer, kernel: filled(k, kernelShape(layer)), bias: bias && filled(bias, [layer.outChannels]) };
  });
  const x = filled(state.x, inputShape(layers[0]));
  return state.arrangement === "row" ? inRow(state, blocks as [Block, Block], x) : inBranches(state, blocks, x);
});

const multiplications = (block: Block): number => countsOf(block.layer, false).forward.multiplications;
const total = (blocks: readonly Block[]): number => blocks.reduce((sum, block) => sum + multiplications(block), 0);

function inRow(state: FoldState, blocks: [Block, Block], x: Tensor): FoldArrays {
  const [first, second] = blocks;
  const folded = compose(first, second);
  const { used } = beyondBorder(first, second, x);
  const between = applyBlock(first, x);
  if (state.relu) between.data.forEach((value, place) => (between.data[place] = Math.max(value, 0)));
  const hidden = padded(second.layer, between);
  const missing = tensor(hidden.shape, hidden.data.map((value, place) => used.data[place]! - value));
  return finished(state, blocks, folded, x, applyBlock(second, between), { hidden, missing });
}

function inBranches(state: FoldState, convolutions: readonly Block[], x: Tensor): FoldArrays {
  const blocks = state.skip ? [...convolutions, identity(state)] : convolutions;
  const block = sumBranches(blocks);
  const expected = zeros(applyBlock(block, x).shape);
  for (const branch of blocks) {
    applyBlock(branch, x).data.forEach((value, place) => (expected.data[place]! += value));
  }
  const folded: Folded = {
    block,
    exact: "everywhere",
    reason: "The kernels are added where they read the same input; the smaller one has zeros elsewhere.",
  };
  return finished(state, blocks, folded, x, expected, { hidden: null, missing: null });
}

/** Rounding of the folded kernel's products, relative to the largest output, below which a difference is none. */
const ROUNDING = 1e-12;

function finished(
  state: FoldState,
  blocks: readonly Block[],
  folded: Folded,
  x: Tensor,
  expected: Tensor,
  between: Pick<FoldArrays, "hidden" | "missing">,
): FoldArrays {
  const output = applyBlock(folded.block, x);
  const largest = output.data.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  const difference = tensor(
    output.shape,
    output.data.map((value, place) => {
      const error = value - expected.data[place]!;
      return Math.abs(error) <= ROUNDING * largest ? 0 : error;
    }),
  );
  return {
    state,
    blocks,
    folded,
    x: padded(folded.block.layer, x),
    ...between,
    expected,
    output,
    difference,
    before: total(blocks.slice(0, 2)),
    after: multiplications(folded.block),
  };
}

/** The factors of one page of the folded kernel. */
export function pageFactors({ folded }: FoldArrays, page: readonly [number, number]): { kernel: Tensor; factors: Factors } {
  const { kernel } = folded.block;
  const [, ins, height, width] = kernel.shape as [number, number, number, number];
  const start = (page[0] * ins + page[1]) * height * width;
  const values = tensor([height, width], kernel.data.subarray(start, start + height * width));
  return { kernel: values, factors: factor(values) };
}
