/** The arrays of the view "Fold", computed once for each state. */

import { computed } from "@preact/signals";
import {
  applyBlock,
  beyondBorder,
  type Block,
  branchRefusal,
  compose,
  composedLayer,
  countsOf,
  factor,
  type Factors,
  filled,
  type Folded,
  inputShape,
  kernelShape,
  type Layer,
  padded,
  SINGLE,
  sumBranches,
  tensor,
  type Tensor,
  zeros,
} from "../../core";
import { type BlockState, foldLayers, foldRefusal, type FoldState, MOST_CELLS } from "../../state";
import { foldState } from "../../state/store";

export interface FoldArrays {
  readonly state: FoldState;
  /** The convolutions, and in branches the input itself, if it is added. */
  readonly blocks: readonly Block[];
  /** In a row: the first block, and the convolutions that it and those up to each later one fold into. */
  readonly prefixes: readonly Block[];
  readonly folded: Folded;
  /** The input with the padding that the folded convolution reads. */
  readonly x: Tensor;
  /** In a row: what each convolution but the first reads. */
  readonly gaps: readonly Gap[];
  readonly expected: Tensor;
  readonly output: Tensor;
  readonly difference: Tensor;
  /** Multiplications before and after. */
  readonly before: number;
  readonly after: number;
}

/** The map between two convolutions with its padding, and by how much the values differ that the folded kernel uses. */
export interface Gap {
  readonly hidden: Tensor;
  readonly missing: Tensor;
}

function foldedRefusal(state: FoldState): string | null {
  const why = foldRefusal(state);
  if (why) return why;
  const layers = foldLayers(state);
  if (state.arrangement === "row") return state.blocks.length > 2 ? sizeRefusal(layers) : null;
  if (state.skip && state.channels[0] !== state.channels.at(-1)) {
    return "The input can be added only to an output of as many channels.";
  }
  if (state.skip && state.blocks[0]!.stride > 1) return "The input can be added only at stride 1: otherwise, it has more pixels than the output.";
  return branchRefusal(state.skip ? [...layers, identity(state).layer] : layers);
}

/** Return why three convolutions fold into too large a kernel, in words, or null. */
function sizeRefusal(layers: readonly Layer[]): string | null {
  const { rows } = layers.reduce(composedLayer);
  const elements = layers[0]!.inChannels * layers.at(-1)!.outChannels * rows.kernel ** 2;
  return elements > MOST_CELLS
    ? `The folded kernel would have ${elements} elements; at most ${MOST_CELLS} are drawn: make a kernel, a dilation or a stride smaller.`
    : null;
}

/** Why nothing is drawn, or null. */
export const foldRefused = computed(() => foldedRefusal(foldState.value));

/** Return the convolution that gives the input back. */
function identity(state: FoldState): Block {
  const layer = foldLayers(state)[0]!;
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
  const x = filled(state.x, inputShape(layers[0]!));
  return state.arrangement === "row" ? inRow(state, blocks, x) : inBranches(state, blocks, x);
});

const multiplications = (block: Block): number => countsOf(block.layer, false).forward.multiplications;
const total = (blocks: readonly Block[]): number => blocks.reduce((sum, block) => sum + multiplications(block), 0);

function inRow(state: FoldState, blocks: readonly Block[], x: Tensor): FoldArrays {
  const [first, ...others] = blocks as [Block, ...Block[]];
  const prefixes = [first];
  const gaps: Gap[] = [];
  const steps: Folded[] = [];
  let output = applyBlock(first, x);
  for (const next of others) {
    const before = prefixes.at(-1)!;
    if (state.relu) output.data.forEach((value, place) => (output.data[place] = Math.max(value, 0)));
    const hidden = padded(next.layer, output);
    const { used } = beyondBorder(before, next, x);
    gaps.push({ hidden, missing: tensor(hidden.shape, hidden.data.map((value, place) => used.data[place]! - value)) });
    steps.push(compose(before, next));
    prefixes.push(steps.at(-1)!.block);
    output = applyBlock(next, output);
  }
  return finished(state, blocks, inSteps(steps), x, output, { prefixes, gaps });
}

/** Return the last of several foldings, which is exact everywhere only if all of them are. */
function inSteps(steps: readonly Folded[]): Folded {
  const [one, two] = steps as [Folded, Folded?];
  if (!two) return one;
  return {
    block: two.block,
    exact: one.exact === "everywhere" ? two.exact : one.exact,
    reason: `The first two: ${one.reason} These two as the first, and the third as the second: ${two.reason}`,
  };
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
  return finished(state, blocks, folded, x, expected, { prefixes: [], gaps: [] });
}

/** Rounding of the folded kernel's products, relative to the largest output, below which a difference is none. */
const ROUNDING = 1e-12;

function finished(
  state: FoldState,
  blocks: readonly Block[],
  folded: Folded,
  x: Tensor,
  expected: Tensor,
  between: Pick<FoldArrays, "prefixes" | "gaps">,
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
    before: total(blocks.slice(0, state.blocks.length)),
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
