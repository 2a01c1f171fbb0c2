/** What makes each cell of the view "Fold". */

import {
  branchTaps,
  indicesOf,
  kernelShape,
  type Layer,
  mapsOf,
  offset,
  type Product,
  productsOfInput,
  productsOfOutput,
  tapProducts,
  valueAt,
} from "../../core";
import { type Cell, ORDINALS } from "../../state";
import type { Explanation, Line, Term } from "../../parts/board";
import { counted, long } from "../../parts/numbers";
import type { FoldArrays } from "./fold_arrays";
import { placeOf, sourceOf } from "../layer/layer_arrays";
import { linesBy } from "../make_board";

/**
 * Arrays of a row: step n folds block n, counted from 0, into the convolution that those before it fold into. Its kernel
 * is `v` after the first two of three, else `w`; and gap n lies before block n.
 */
const leftKernel = (step: number): string => (step === 1 ? "w1" : "v");
const leftBias = (step: number): string => (step === 1 ? "b1" : "bv");
const gapGrid = (name: "h" | "g", gap: number): string => (gap === 1 ? name : `${name}${gap}`);
const lastStep = ({ blocks }: FoldArrays): number => blocks.length - 1;
const leftName = (step: number): string => (step === 1 ? "the first" : "the first two, folded,");

const kernelGrid = ({ state }: FoldArrays, n: number): string => (n < state.blocks.length ? `w${n + 1}` : "i");
const branchName = ({ state }: FoldArrays) => (n: number): string =>
  n < state.blocks.length ? `${ORDINALS[n]} branch` : "the input itself";

export function explainFold(found: FoldArrays, cell: Cell): Explanation {
  switch (cell.grid) {
    case "w":
    case "v":
      return explainTap(found, cell);
    case "b":
    case "bv":
      return explainBias(found, cell);
    case "e":
      return explainDifference(found, cell);
    case "y":
      return explainExpected(found, cell);
    case "z":
      return explainOutput(found, cell);
    case "h":
    case "h2":
      return explainHidden(found, cell);
    case "w1":
    case "w2":
    case "w3":
    case "i":
      return explainOwnTap(found, cell);
    case "x":
      return explainInput(found, cell);
    case "g":
    case "g2":
      return plain(cell, missingText(found, cell));
    case "p":
      return explainFactored(cell);
    default:
      return plain(cell, cell.grid.startsWith("b") ? "A bias: it is added to every output of its channel." : "A factor of the kernel.");
  }
}

const plain = (cell: Cell, about: string): Explanation => ({ cell, about, lines: [], isSum: false });
const hiddenChannel = (channel: number): string => `hidden channel ${channel}`;

/** Return where a layer's padded place stands in the input as the folded convolution reads it. */
function widePlace({ folded }: FoldArrays, layer: Layer, at: readonly number[]): number[] {
  const whole = folded.block.layer;
  return [at[0]!, at[1]! + whole.rows.before - layer.rows.before, at[2]! + whole.columns.before - layer.columns.before];
}

interface KernelTerm {
  readonly place: number;
  readonly hidden: number;
  readonly term: Term;
}

/** Terms of each folded kernel: there are many of them, and each pointing reads them all. */
const known = new WeakMap<object, readonly KernelTerm[]>();

/** Return the pairs or single kernel elements that make the kernel of a step, with their places in it. */
function kernelTerms(found: FoldArrays, step: number): readonly KernelTerm[] {
  const key = found.prefixes[step] ?? found.folded.block;
  let terms = known.get(key);
  if (!terms) known.set(key, (terms = termsOf(found, key.layer, step)));
  return terms;
}

function termsOf(found: FoldArrays, whole: Layer, step: number): KernelTerm[] {
  const { blocks, prefixes } = found;
  const cell = (grid: string, layer: Layer, place: number): Cell => ({ grid, at: indicesOf(kernelShape(layer), place) });
  const left = prefixes[step - 1]?.layer;
  const right = blocks[step]!.layer;
  if (!left) {
    return blocks.flatMap(({ layer }, n) =>
      branchTaps(whole, layer).map(([place, own]) => ({ place, hidden: n, term: { factors: [cell(kernelGrid(found, n), layer, own)] } })),
    );
  }
  return tapProducts(whole, left, right).map(([place, one, two]) => {
    const factors = [cell(`w${step + 1}`, right, two), cell(leftKernel(step), left, one)];
    return { place, hidden: factors[0]!.at[1]!, term: { factors } };
  });
}

function grouped(terms: readonly { hidden: number; term: Term }[], label: (hidden: number) => string): Line[] {
  const lines = new Map<number, Term[]>();
  for (const { hidden, term } of terms) lines.set(hidden, [...(lines.get(hidden) ?? []), term]);
  return [...lines].sort(([a], [b]) => a - b).map(([hidden, own]) => ({ label: label(hidden), terms: own }));
}

function explainTap(found: FoldArrays, cell: Cell): Explanation {
  const step = cell.grid === "v" ? 1 : lastStep(found);
  const row = found.state.arrangement === "row";
  const { kernel } = row ? found.prefixes[step]! : found.folded.block;
  const place = offset(kernel.shape, cell.at);
  const terms = kernelTerms(found, step).filter((entry) => entry.place === place);
  return {
    cell,
    about: !terms.length
      ? "Nothing reaches this place of the folded kernel: it is zero."
      : row
        ? `The folded kernel is the full convolution of two kernels: ${counted(terms.length, "pair")} of elements lead from ` +
          "this input to the output."
        : `The sum of the kernel elements that read this input, in ${counted(terms.length, "branch", "branches")}.`,
    lines: grouped(terms, row ? hiddenChannel : branchName(found)),
    isSum: terms.length > 0,
  };
}

function explainOwnTap(found: FoldArrays, cell: Cell): Explanation {
  const row = found.state.arrangement === "row";
  const step = row && cell.grid !== "w3" ? 1 : lastStep(found);
  const into = row && step < lastStep(found) ? "v" : "w";
  const shape = kernelShape((found.prefixes[step] ?? found.folded.block).layer);
  const own = cell.at.join();
  const terms = kernelTerms(found, step)
    .filter(({ term }) => term.factors.some((factor) => factor.grid === cell.grid && factor.at.join() === own))
    .map(({ place, hidden, term }) => ({ hidden, term: { ...term, into: { grid: into, at: indicesOf(shape, place) } } }));
  return {
    cell,
    about: `A kernel element. It goes into ${counted(terms.length, "product")} of the ${into === "v" ? "kernel of the first two, folded" : "folded kernel"}.`,
    lines: grouped(terms, row ? hiddenChannel : branchName(found)),
    isSum: false,
  };
}

function explainBias(found: FoldArrays, cell: Cell): Explanation {
  const { blocks, prefixes, state } = found;
  const channel = cell.at[2]!;
  if (state.arrangement === "branches") {
    const terms = blocks.flatMap((block, n): Term[] =>
      block.bias ? [{ factors: [{ grid: `b${n + 1}`, at: [0, 0, channel] }] }] : [],
    );
    return { cell, about: "The sum of the branches’ biases.", lines: [{ label: "biases", terms }], isSum: true };
  }
  const step = cell.grid === "bv" ? 1 : lastStep(found);
  const { layer, bias } = blocks[step]!;
  const taps = layer.rows.kernel * layer.columns.kernel;
  const terms = !prefixes[step - 1]!.bias
    ? []
    : Array.from({ length: layer.inChannels * taps }, (_, n) => {
        const hidden = Math.floor(n / taps);
        const tap = indicesOf([layer.rows.kernel, layer.columns.kernel], n % taps);
        const factors = [{ grid: `w${step + 1}`, at: [channel, hidden, ...tap] }, { grid: leftBias(step), at: [0, 0, hidden] }];
        return { hidden, term: { factors } };
      });
  return {
    cell,
    about: `The bias of ${leftName(step)} passes through the ${ORDINALS[step]}’s kernel${bias ? ", whose own bias is added" : ""}.`,
    lines: grouped(terms, hiddenChannel),
    ...(bias ? { added: { grid: `b${step + 1}`, at: cell.at } } : {}),
    isSum: true,
  };
}

function explainDifference(found: FoldArrays, cell: Cell): Explanation {
  const { gaps, blocks, difference, state } = found;
  const none = valueAt(difference, cell.at) === 0;
  const step = gaps.length;
  if (!step) return plain(cell, "The folded convolution gives the sum of the branches everywhere, borders included.");
  const { missing } = gaps[step - 1]!;
  const { layer } = blocks[step]!;
  const products = productsOfOutput(layer, mapsOf(layer), cell.at).filter((product) => valueAt(missing, product.padded) !== 0);
  const cause = state.relu ? "a ReLU or padding changed" : step > 1 ? "padding changed" : "the padding replaced";
  return {
    cell,
    about: products.length
      ? `${none ? "Here, the errors cancel" : "Here, the folded convolution is wrong"}: the ${ORDINALS[step]} reads ${counted(products.length, "value")} that ${cause}, ` +
        `and the folded kernel uses what ${leftName(step)} would give there.`
      : `Here, the folded convolution is right: every value that the ${ORDINALS[step]} reads is one that ${leftName(step)} would give.`,
    lines: linesBy(products, (product) => product.padded[0]!, hiddenChannel, (product) => ({
      factors: [
        { grid: gapGrid("g", step), at: product.padded },
        { grid: `w${step + 1}`, at: product.tap },
      ],
    })),
    isSum: products.length > 0,
  };
}

const gapOf = (cell: Cell): number => Number(cell.grid.slice(1) || 1);

function missingText({ gaps, state }: FoldArrays, cell: Cell): string {
  const gap = gapOf(cell);
  const { missing, hidden } = gaps[gap - 1]!;
  const value = valueAt(missing, cell.at);
  if (value === 0) return `The folded kernel uses what the ${ORDINALS[gap]} convolution reads here.`;
  const read = valueAt(hidden, cell.at);
  const cause = gap > 1 ? "" : state.relu ? ", from the padding or the ReLU" : ", from the padding";
  return `The ${ORDINALS[gap]} convolution reads ${long(read)} here${cause}; the folded kernel uses ${long(read + value)}, which ${leftName(gap)} would give.`;
}

const biasCell = (grid: string, channel: number, biased: boolean): Pick<Explanation, "added"> =>
  biased ? { added: { grid, at: [0, 0, channel] } } : {};

function explainExpected(found: FoldArrays, cell: Cell): Explanation {
  const { blocks, state, folded } = found;
  if (state.arrangement === "branches") {
    const lines = blocks.map(({ layer }, n) => ({
      label: branchName(found)(n),
      terms: productsOfOutput(layer, mapsOf(layer), cell.at).map((product) => ({
        factors: [
          { grid: "x", at: widePlace(found, layer, product.padded) },
          { grid: kernelGrid(found, n), at: product.tap },
        ],
      })),
    }));
    return {
      cell,
      about: `The sum of ${counted(blocks.length, "branch", "branches")}.`,
      lines,
      ...biasCell("b", cell.at[0]!, folded.block.bias !== null),
      isSum: true,
    };
  }
  const step = lastStep(found);
  const { layer, bias } = blocks[step]!;
  return {
    cell,
    about: `The output of the ${ORDINALS[step]} convolution, which reads the ${ORDINALS[step - 1]}’s output with its padding.`,
    lines: linesBy(productsOfOutput(layer, mapsOf(layer), cell.at), (product) => product.padded[0]!, hiddenChannel, (product) => ({
      factors: [
        { grid: gapGrid("h", step), at: product.padded },
        { grid: `w${step + 1}`, at: product.tap },
      ],
    })),
    ...biasCell(`b${step + 1}`, cell.at[0]!, bias !== null),
    isSum: true,
  };
}

function explainOutput(found: FoldArrays, cell: Cell): Explanation {
  const { layer, bias } = found.folded.block;
  return {
    cell,
    about: "The output of the folded convolution, which reads the input once.",
    lines: linesBy(
      productsOfOutput(layer, mapsOf(layer), cell.at),
      (product) => product.padded[0]!,
      (channel) => `input channel ${channel}`,
      (product) => ({
        factors: [
          { grid: "x", at: product.padded },
          { grid: "w", at: product.tap },
        ],
      }),
    ),
    ...biasCell("b", cell.at[0]!, bias !== null),
    isSum: true,
  };
}

/** Return the products of a convolution of the row, with their places in the map that it reads as it is drawn. */
function blockTerms(found: FoldArrays, n: number, products: readonly Product[], into: boolean): Line[] {
  const { layer } = found.blocks[n]!;
  const next = found.blocks[n + 1]!.layer;
  const key = into ? (product: Product) => product.output[0]! : (product: Product) => product.padded[0]!;
  const label = into || n ? hiddenChannel : (channel: number) => `input channel ${channel}`;
  return linesBy(products, key, label, (product) => ({
    factors: [
      n ? { grid: gapGrid("h", n), at: product.padded } : { grid: "x", at: widePlace(found, layer, product.padded) },
      { grid: `w${n + 1}`, at: product.tap },
    ],
    ...(into ? { into: { grid: gapGrid("h", n + 1), at: placeOf(next, product.output) } } : {}),
  }));
}

function explainHidden(found: FoldArrays, cell: Cell): Explanation {
  const { blocks, state, gaps } = found;
  const gap = gapOf(cell);
  const { layer, bias } = blocks[gap - 1]!;
  const reader = blocks[gap]!.layer;
  const source = sourceOf(reader, cell.at);
  const inside = source && placeOf(reader, source).every((n, axis) => n === cell.at[axis]);
  const [before, after] = [ORDINALS[gap - 1]!, ORDINALS[gap]!];
  if (!inside) {
    return plain(
      cell,
      source
        ? `The ${after} convolution’s padding, which repeats a value of the ${before}’s output.`
        : `A zero of the ${after} convolution’s padding; the ${before} would give another value here.`,
    );
  }
  const clipped = state.relu && valueAt(gaps[gap - 1]!.hidden, cell.at) === 0;
  return {
    cell,
    about: clipped
      ? "A value between the two that the ReLU set to zero: its products add up to a negative number, or to zero."
      : `A value between the two: an output of the ${before} convolution.`,
    lines: blockTerms(found, gap - 1, productsOfOutput(layer, mapsOf(layer), source), false),
    ...biasCell(`b${gap}`, cell.at[0]!, bias !== null),
    isSum: !clipped,
  };
}

function explainInput(found: FoldArrays, cell: Cell): Explanation {
  const { folded, blocks, state } = found;
  const source = sourceOf(folded.block.layer, cell.at);
  const inside = source && placeOf(folded.block.layer, source).every((n, axis) => n === cell.at[axis]);
  if (!inside) return plain(cell, "Padding that the folded convolution reads around the input.");
  if (state.arrangement === "branches") return plain(cell, "An input, which every branch reads.");
  const { layer } = blocks[0]!;
  const products = productsOfInput(layer, mapsOf(layer), source);
  return {
    cell,
    about: `An input. The first convolution uses it in ${counted(products.length, "product")}.`,
    lines: blockTerms(found, 0, products, true),
    isSum: false,
  };
}

function explainFactored(cell: Cell): Explanation {
  const [row, column] = cell.at as [number, number];
  return {
    cell,
    about: "An element of the column times an element of the row.",
    lines: [{ label: "product", terms: [{ factors: [{ grid: "c", at: [row, 0] }, { grid: "r", at: [0, column] }] }] }],
    isSum: true,
  };
}
