/** Exercises on what a convolution is: two kernels as one, sums in another order, the matrix product. */

import {
  type Block,
  compose,
  correlate,
  factor,
  filled,
  indicesOf,
  inputShape,
  kernelShape,
  matrices,
  named,
  outputShape,
  type Tensor,
  tensor,
  valueAt,
  zeros,
} from "../../core";
import { type BlockState, FIRST_FOLD, type FoldState } from "../../state";
import { counted, grouped, short } from "../../parts/numbers";
import { arrayText, optionsText } from "../python";
import { type Exercise, type Instance, layerOf, layerState, type Random } from "./exercise";

const IMPORTS = "import numpy as np\n\nimport convolith as cl\n";

export const TWO_KERNELS: Exercise = {
  title: "Two kernels in a row",
  text: "Two convolutions follow each other with nothing between them. Is that one convolution, of which size? Can every kernel be split into two?",
  draw: drawTwoKernels,
};

function drawTwoKernels(random: Random): Instance {
  const [one, two] = [random.whole(2, 5), random.whole(2, 5)];
  const size = random.whole(one + two - 1, 10);
  const seeds = [random.whole(1, 99), random.whole(1, 99)] as const;
  const first = layerOf({ channels: [1, 1], size: [size, size], kernel: [one, one] });
  const [, between] = outputShape(first) as [number, number, number];
  const second = layerOf({ channels: [1, 1], size: [between, between], kernel: [two, two] });
  const block = (layer: typeof first, seed: number): Block => ({
    layer,
    kernel: filled(named("random", seed), kernelShape(layer)),
    bias: null,
  });
  const folded = compose(block(first, seeds[0]), block(second, seeds[1])).block.layer;
  const last = outputShape(folded)[1]!;
  const kernel = maybeSplit(random);
  const { exact, singularValues } = factor(kernel);
  const most = singularValues[0]!;
  const values = singularValues.map((value) => short(value > 1e-12 * most ? value : 0)).join(", ");
  const whole = folded.rows.kernel;
  return {
    given:
      `An input of ${size} × ${size} goes through kernels k1 of ${one} × ${one} and k2 of ${two} × ${two}, without padding. K is another kernel.`,
    matrices: [["K", kernel]],
    questions: [
      {
        ask: "How many rows has the one square kernel that gives the same output?",
        answer: whole,
        why:
          `An output of k2 reads ${two} rows of k1’s output, and each of these reads ${one} rows of the input, one row further down each: ` +
          `${one} + ${two} − 1 = ${whole} rows in all. Element m of the one kernel is the sum of k1[a] · k2[b] over all a + b = m. ` +
          `Both ways give ${last} × ${last} outputs.`,
      },
      {
        ask: "Is K a column of 3 × 1 followed by a row of 1 × 3?",
        options: ["yes", "no"],
        answer: exact ? "yes" : "no",
        why:
          `${exact ? "All" : "Not all"} of its rows are multiples of one row. Its singular values are ${values}; a column times a row has only ` +
          `one that is not zero. In general the converse is false: a ${whole} × ${whole} kernel has ${whole * whole} numbers to choose, ` +
          `kernels of ${one} × ${one} and ${two} × ${two} only ${one * one + two * two}.`,
      },
    ],
    links: [
      { text: "The two kernels in Fold", state: { view: "fold", fold: foldOf(size, [one, named("random", seeds[0])], [two, named("random", seeds[1])]) } },
      { text: "K in Fold, at “The converse”", state: { view: "fold", fold: foldOf(5, [3, { given: { ...kernel, shape: [1, 1, 3, 3] } }], [1, named("ones")]) } },
    ],
    code: [
      IMPORTS,
      `rng = np.random.default_rng(0)`,
      `first, second = cl.Conv(rng.normal(size=(${one}, ${one}))), cl.Conv(rng.normal(size=(${two}, ${two})))`,
      `K = cl.Conv(${arrayText(kernel, 2)})`,
      `parts = [part.kernel_size for part in cl.decompose(K).parts]`,
      `print([cl.compose(first, second).conv.kernel_size[0], "yes" if sorted(parts) == [(1, 3), (3, 1)] else "no"])`,
    ].join("\n"),
  };
}

type Fill = FoldState["x"];

function foldOf(size: number, ...blocks: readonly [readonly [number, Fill], readonly [number, Fill]]): FoldState {
  const block = ([kernel, k]: readonly [number, Fill]): BlockState => ({ ...FIRST_FOLD.blocks[0], kernel, padding: 0, k });
  return { ...FIRST_FOLD, size, blocks: [block(blocks[0]), block(blocks[1])] };
}

/** Draw a column times a row, in half of the cases with one element changed, so that it no longer is one. */
function maybeSplit(random: Random): Tensor {
  const draw = (): number => random.pick([-3, -2, -1, 1, 2, 3]);
  const [column, row] = [[draw(), draw(), draw()], [draw(), draw(), draw()]];
  const kernel = tensor([3, 3], column.flatMap((a) => row.map((b) => a * b)));
  if (random.whole(0, 1)) kernel.data[random.whole(0, 8)]! += random.pick([-2, -1, 1, 2]);
  return kernel;
}

const SAME = ["always", "not always"] as const;

export const EXACTLY_THE_SAME: Exercise = {
  title: "Exactly the same?",
  text: "The book computes a 1 × 1 convolution as a matrix product (Y1) and channel after channel (Y2). Are Y1 and Y2 exactly the same?",
  draw: drawOrders,
};

function drawOrders(random: Random): Instance {
  const add = (a: number, b: number): number => Math.fround(a + b);
  let x: number[];
  let k: number[];
  let sums: readonly [number, number];
  do {
    const large = 2 ** random.whole(12, 13);
    x = [large, random.whole(1, 5), large];
    k = [8192, random.whole(1, 3), -8192];
    const [p, q, r] = x.map((value, channel) => value * k[channel]!) as [number, number, number];
    sums = [add(add(p, q), r), add(p, add(q, r))];
  } while (sums[0] === sums[1]);
  const products = x.map((value, channel) => value * k[channel]!);
  const layer = layerOf({ channels: [3, 1], size: [1, 1], kernel: [1, 1] });
  const given = { x: { given: tensor([3, 1, 1], x) }, k: { given: tensor([1, 3, 1, 1], k) } };
  const exact = correlate(layer, given.x.given, given.k.given).data[0]!;
  const [p, q, r] = products.map((value) => (value < 0 ? `(${text(value)})` : text(value)));
  const step = 2 ** (Math.floor(Math.log2(products[0]!)) - 23);
  return {
    given:
      `One pixel with three channels, x = (${x.map(text).join(", ")}), and a 1 × 1 kernel k = (${k.map(text).join(", ")}), in float32. ` +
      `The products are ${p}, ${q} and ${r}.`,
    questions: [
      {
        ask: "Y1 and Y2 add the same products. Are they equal to the last bit?",
        options: SAME,
        answer: SAME[sums[0] === sums[1] ? 0 : 1]!,
        why:
          `Every addition in float32 rounds to 24 binary digits, so that the order matters: one gives ${text(sums[0])}, another ${text(sums[1])}, and ` +
          `the exact sum is ${text(exact)}. A matrix product may add in any order, so that Y1 and Y2 agree up to rounding only.`,
      },
      {
        ask: `What is (${p} + ${q}) + ${r} in float32, channel after channel?`,
        answer: sums[0],
        why:
          `From ${text(2 ** Math.floor(Math.log2(products[0]!)))} on, neighbouring float32 numbers lie ${text(step)} apart. So the first sum is rounded from ` +
          `${text(products[0]! + products[1]!)} to ${text(add(products[0]!, products[1]!))}, and ${text(sums[0])} is left.`,
      },
      {
        ask: `What is ${p} + (${q} + ${r}) in float32, the last two first?`,
        answer: sums[1],
        why:
          `Below ${text(products[0]!)} neighbours lie only ${text(step / 2)} apart: the bracket becomes ${text(add(products[1]!, products[2]!))}, ` +
          `and ${text(sums[1])} is left.`,
      },
    ],
    links: [{ text: "This pixel in Look, as a matrix product", state: { view: "look", layer: layerState(layer, given) } }],
    code: [
      IMPORTS,
      `x = np.array([${x.join(", ")}], np.float32)`,
      `k = np.array([${k.join(", ")}], np.float32)`,
      "p, q, r = x * k",
      "in_order, last_two_first = (p + q) + r, p + (q + r)",
      "exact = cl.correlate(x.astype(float)[:, None], k.astype(float)[None, :, None]).item()",
      `assert exact == ${exact}`,
      `print(["always" if in_order == last_two_first else "not always", float(in_order), float(last_two_first)])`,
    ].join("\n"),
  };
}

const text = (value: number): string => grouped(value).replace("-", "−");

export const AS_A_MATRIX: Exercise = {
  title: "As a matrix product",
  text: "Write a convolution as one matrix product, also where the window is larger than 1 × 1.",
  draw: drawMatrix,
};

function drawMatrix(random: Random): Instance {
  const [into, out, taps, stride] = [random.whole(1, 2), random.whole(1, 3), random.whole(2, 3), random.whole(1, 2)];
  const size = random.whole(taps + stride, 5);
  const layer = layerOf({ channels: [into, out], size: [size, size], kernel: [taps, taps], stride: [stride, stride] });
  const seed = random.whole(1, 99);
  const x = filled(named("random", seed), inputShape(layer));
  const { windows } = matrices(layer, x, zeros(kernelShape(layer)));
  const [rows, columns] = windows.shape as [number, number];
  const [row, column] = [random.whole(1, rows - 1), random.whole(1, columns - 1)];
  const [, height, width] = outputShape(layer) as [number, number, number];
  const [channel, i, j] = indicesOf([into, taps, taps], row) as [number, number, number];
  const [down, across] = indicesOf([height, width], column) as [number, number];
  const page = (n: number): Tensor => ({ shape: [size, size], data: x.data.slice(n * size * size, (n + 1) * size * size) });
  const value = valueAt(windows, [row, column]);
  return {
    given:
      `An input x of ${counted(into, "channel")}, ${size} × ${size}; kernels of ${taps} × ${taps} with stride ${stride}, and ` +
      `${counted(out, "output channel")}. A matrix with a kernel in each row is multiplied with a matrix W, whose columns hold the inputs of ` +
      "one output pixel’s window each, by channel, row and column.",
    matrices: Array.from({ length: into }, (_, n) => [`x[${n}]`, page(n)] as const),
    questions: [
      {
        ask: "How many rows has W?",
        answer: rows,
        why: `A window holds ${into} · ${taps} · ${taps} = ${rows} inputs: the channels times the kernel’s height and width.`,
      },
      {
        ask: "How many columns has W?",
        answer: columns,
        why:
          `One for each output pixel. There are (${size} − ${taps}) / ${stride} + 1 along an axis, rounded down: ${height} · ${width} = ${columns}.`,
      },
      {
        ask: `What is W[${row},${column}], counted from 0?`,
        answer: value,
        why:
          `Row ${row} belongs to kernel element [${i},${j}] of channel ${channel}, column ${column} to output [${down},${across}], whose window begins at ` +
          `[${stride * down},${stride * across}]: x[${channel},${stride * down + i},${stride * across + j}] = ${short(value)}. ` +
          `W repeats inputs: it has ${rows * columns} elements, x has ${x.data.length}.`,
      },
    ],
    links: [{ text: "Both matrices in Look", state: { view: "look", layer: layerState(layer, { x: named("random", seed) }) } }],
    code: [
      IMPORTS,
      `x = ${arrayText(x, 2)}`,
      `k = np.ones((${out}, ${into}, ${taps}, ${taps}))`,
      `windows = np.lib.stride_tricks.sliding_window_view(x, (${taps}, ${taps}), axis=(1, 2))[:, ::${stride}, ::${stride}]`,
      `W = windows.transpose(0, 3, 4, 1, 2).reshape(${rows}, -1)`,
      `y = cl.correlate(x, k${optionsText(layer)})`,
      `assert np.array_equal(k.reshape(${out}, -1) @ W, y.reshape(${out}, -1))`,
      `print([*W.shape, W[${row}, ${column}].item()])`,
    ].join("\n"),
  };
}
