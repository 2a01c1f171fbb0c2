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
import type { Cell } from "../../state";
import type { Explanation, Line, Term } from "../../parts/board";
import { counted, long } from "../../parts/numbers";
import type { FoldArrays } from "./fold_arrays";
import { placeOf, sourceOf } from "../layer/layer_arrays";
import { linesBy } from "../make_board";

/** Kernels of the blocks, by their position. */
const KERNELS = ["w1", "w2", "i"] as const;
const BRANCHES = ["first branch", "second branch", "the input itself"] as const;

export function explainFold(found: FoldArrays, cell: Cell): Explanation {
  switch (cell.grid) {
    case "w":
      return explainTap(found, cell);
    case "b":
      return explainBias(found, cell);
    case "e":
      return explainDifference(found, cell);
    case "y":
      return explainExpected(found, cell);
    case "z":
      return explainOutput(found, cell);
    case "h":
      return explainHidden(found, cell);
    case "w1":
    case "w2":
    case "i":
      return explainOwnTap(found, cell);
    case "x":
      return explainInput(found, cell);
    case "g":
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

/** Return the pairs or single kernel elements that make the folded kernel, with their places in it. */
function kernelTerms({ blocks, folded, state }: FoldArrays): { place: number; hidden: number; term: Term }[] {
  const whole = folded.block.layer;
  const layers = blocks.map((block) => block.layer);
  const cell = (grid: string, layer: Layer, place: number): Cell => ({ grid, at: indicesOf(kernelShape(layer), place) });
  if (state.arrangement === "branches") {
    return layers.flatMap((layer, n) =>
      branchTaps(whole, layer).map(([place, own]) => ({ place, hidden: n, term: { factors: [cell(KERNELS[n]!, layer, own)] } })),
    );
  }
  const [first, second] = layers as [Layer, Layer];
  return tapProducts(whole, first, second).map(([place, one, two]) => {
    const factors = [cell("w2", second, two), cell("w1", first, one)];
    return { place, hidden: factors[0]!.at[1]!, term: { factors } };
  });
}

function grouped(terms: readonly { hidden: number; term: Term }[], label: (hidden: number) => string): Line[] {
  const lines = new Map<number, Term[]>();
  for (const { hidden, term } of terms) lines.set(hidden, [...(lines.get(hidden) ?? []), term]);
  return [...lines].sort(([a], [b]) => a - b).map(([hidden, own]) => ({ label: label(hidden), terms: own }));
}

function explainTap(found: FoldArrays, cell: Cell): Explanation {
  const place = offset(found.folded.block.kernel.shape, cell.at);
  const terms = kernelTerms(found).filter((entry) => entry.place === place);
  const row = found.state.arrangement === "row";
  return {
    cell,
    about: !terms.length
      ? "Nothing reaches this place of the folded kernel: it is zero."
      : row
        ? `The folded kernel is the full convolution of the two: ${counted(terms.length, "pair")} of elements lead from ` +
          "this input to the output."
        : `The sum of the kernel elements that read this input, in ${counted(terms.length, "branch", "branches")}.`,
    lines: grouped(terms, row ? hiddenChannel : (n) => BRANCHES[n]!),
    isSum: terms.length > 0,
  };
}

function explainOwnTap(found: FoldArrays, cell: Cell): Explanation {
  const shape = kernelShape(found.folded.block.layer);
  const own = cell.at.join();
  const terms = kernelTerms(found)
    .filter(({ term }) => term.factors.some((factor) => factor.grid === cell.grid && factor.at.join() === own))
    .map(({ place, hidden, term }) => ({ hidden, term: { ...term, into: { grid: "w", at: indicesOf(shape, place) } } }));
  return {
    cell,
    about: `A kernel element. It goes into ${counted(terms.length, "product")} of the folded kernel.`,
    lines: grouped(terms, found.state.arrangement === "row" ? hiddenChannel : (n) => BRANCHES[n]!),
    isSum: false,
  };
}

function explainBias({ blocks, state, folded }: FoldArrays, cell: Cell): Explanation {
  const channel = cell.at[2]!;
  if (state.arrangement === "branches") {
    const terms = blocks.flatMap((block, n): Term[] =>
      block.bias ? [{ factors: [{ grid: `b${n + 1}`, at: [0, 0, channel] }] }] : [],
    );
    return { cell, about: "The sum of the branches’ biases.", lines: [{ label: "biases", terms }], isSum: true };
  }
  const [first, second] = blocks as [(typeof blocks)[0], (typeof blocks)[0]];
  const taps = second.layer.rows.kernel * second.layer.columns.kernel;
  const terms = !first.bias
    ? []
    : Array.from({ length: second.layer.inChannels * taps }, (_, n) => {
        const hidden = Math.floor(n / taps);
        const tap = indicesOf([second.layer.rows.kernel, second.layer.columns.kernel], n % taps);
        return { hidden, term: { factors: [{ grid: "w2", at: [channel, hidden, ...tap] }, { grid: "b1", at: [0, 0, hidden] }] } };
      });
  return {
    cell,
    about: `The bias of the first passes through the second’s kernel${second.bias ? ", whose own bias is added" : ""}.`,
    lines: grouped(terms, hiddenChannel),
    ...(second.bias ? { added: { grid: "b2", at: cell.at } } : {}),
    isSum: folded.block.bias !== null,
  };
}

function explainDifference(found: FoldArrays, cell: Cell): Explanation {
  const { missing, blocks, difference, state } = found;
  const none = valueAt(difference, cell.at) === 0;
  if (!missing) return plain(cell, "The folded convolution gives the sum of the branches everywhere, borders included.");
  const { layer } = blocks[1]!;
  const products = productsOfOutput(layer, mapsOf(layer), cell.at).filter((product) => valueAt(missing, product.padded) !== 0);
  const cause = state.relu ? "the ReLU or the padding changed" : "the padding replaced";
  return {
    cell,
    about: products.length
      ? `${none ? "Here, the errors cancel" : "Here, the folded convolution is wrong"}: the second reads ${counted(products.length, "value")} that ${cause}, ` +
        "and the folded kernel uses what the first would give there."
      : "Here, the folded convolution is right: every value that the second reads is one that the first computed.",
    lines: linesBy(products, (product) => product.padded[0]!, hiddenChannel, (product) => ({
      factors: [
        { grid: "g", at: product.padded },
        { grid: "w2", at: product.tap },
      ],
    })),
    isSum: products.length > 0,
  };
}

function missingText({ missing, hidden, state }: FoldArrays, cell: Cell): string {
  const value = valueAt(missing!, cell.at);
  if (value === 0) return "The folded kernel uses what the second convolution reads here.";
  const read = valueAt(hidden!, cell.at);
  const cause = state.relu ? "the padding or the ReLU" : "the padding";
  return `The second convolution reads ${long(read)} here, from ${cause}; the folded kernel uses ${long(read + value)}, which the first would give.`;
}

const biasCell = (grid: string, channel: number, biased: boolean): Pick<Explanation, "added"> =>
  biased ? { added: { grid, at: [0, 0, channel] } } : {};

function explainExpected(found: FoldArrays, cell: Cell): Explanation {
  const { blocks, state, folded } = found;
  if (state.arrangement === "branches") {
    const lines = blocks.map(({ layer }, n) => ({
      label: BRANCHES[n]!,
      terms: productsOfOutput(layer, mapsOf(layer), cell.at).map((product) => ({
        factors: [
          { grid: "x", at: widePlace(found, layer, product.padded) },
          { grid: KERNELS[n]!, at: product.tap },
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
  const { layer, bias } = blocks[1]!;
  return {
    cell,
    about: "The output of the second convolution, which reads the first’s output with its padding.",
    lines: linesBy(productsOfOutput(layer, mapsOf(layer), cell.at), (product) => product.padded[0]!, hiddenChannel, (product) => ({
      factors: [
        { grid: "h", at: product.padded },
        { grid: "w2", at: product.tap },
      ],
    })),
    ...biasCell("b2", cell.at[0]!, bias !== null),
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

/** Return the products of the first convolution, with their places in the input as it is drawn. */
function firstTerms(found: FoldArrays, products: readonly Product[], into: boolean): Line[] {
  const { layer } = found.blocks[0]!;
  const second = found.blocks[1]!.layer;
  const key = into ? (product: Product) => product.output[0]! : (product: Product) => product.padded[0]!;
  return linesBy(products, key, into ? hiddenChannel : (channel) => `input channel ${channel}`, (product) => ({
    factors: [
      { grid: "x", at: widePlace(found, layer, product.padded) },
      { grid: "w1", at: product.tap },
    ],
    ...(into ? { into: { grid: "h", at: placeOf(second, product.output) } } : {}),
  }));
}

function explainHidden(found: FoldArrays, cell: Cell): Explanation {
  const { blocks, state, hidden } = found;
  const { layer, bias } = blocks[0]!;
  const source = sourceOf(blocks[1]!.layer, cell.at);
  const inside = source && placeOf(blocks[1]!.layer, source).every((n, axis) => n === cell.at[axis]);
  if (!inside) {
    return plain(
      cell,
      source
        ? "The second convolution’s padding, which repeats a value of the first’s output."
        : "A zero of the second convolution’s padding; the first would give another value here.",
    );
  }
  const clipped = state.relu && valueAt(hidden!, cell.at) === 0;
  return {
    cell,
    about: clipped
      ? "A value between the two that the ReLU set to zero: its products add up to a negative number, or to zero."
      : "A value between the two: an output of the first convolution.",
    lines: firstTerms(found, productsOfOutput(layer, mapsOf(layer), source), false),
    ...biasCell("b1", cell.at[0]!, bias !== null),
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
    lines: firstTerms(found, products, true),
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
