/** Exercises on what a convolution costs. */

import { countsOf, inputGradient, inputShape, type Layer, memoryOf, outputShape, readsOf, type Tensor, zeros } from "../../core";
import { type CostState, FIRST_COST } from "../../state";
import { counted, grouped } from "../../parts/numbers";
import { optionsText } from "../python";
import { type Exercise, type Instance, layerOf, layerState, type Link, type Random } from "./exercise";

const BYTES = 4;
const rounded = (value: number): string => String(Number(value.toFixed(2)));
const product = (values: readonly number[]): string => values.map((value) => grouped(value)).join(" · ");

/** Write a layer's geometry as the library does. */
function specText(layer: Layer): string {
  const pair = (key: "size" | "kernel"): string => `(${layer.rows[key]}, ${layer.columns[key]})`;
  const { inChannels, outChannels } = layer;
  return `cl.ConvSpec(in_channels=${inChannels}, out_channels=${outChannels}, size=${pair("size")}, kernel_size=${pair("kernel")}${optionsText(layer)})`;
}

function countsLink(layer: Layer): Link {
  return { text: "This layer’s counts in Backward", state: { view: "backward", layer: layerState(layer) } };
}

function costLink(layer: Layer, text: string, state: Partial<CostState> = {}): Link {
  return { text, state: { view: "cost", cost: { ...FIRST_COST, ...state, layer } } };
}

export const COST: Exercise = {
  title: "What a layer costs",
  text: "How many multiplications and additions does a layer take, and how much memory, forward and backward?",
  draw: drawCost,
};

function drawCost(random: Random): Instance {
  const pair = (least: number, most: number): [number, number] => [random.whole(least, most), random.whole(least, most)];
  const channels = [random.whole(2, 4), random.whole(2, 4)] as const;
  const layer = layerOf({ channels, size: pair(5, 12), kernel: pair(2, 4), padding: pair(0, 2), stride: pair(1, 2) });
  const { rows, columns } = layer;
  const [, height, width] = outputShape(layer) as [number, number, number];
  const counts = countsOf(layer, false);
  const { forward, backward } = memoryOf(layer, false, BYTES);
  const outputs = channels[1] * height * width;
  const window = channels[0] * rows.kernel * columns.kernel;
  const total = (terms: object): number => Object.values(terms).reduce((sum, bytes) => sum + bytes, 0);
  const bytes = (term: number): string => grouped(term / BYTES);
  const both = counts.inputGradient.multiplications + counts.kernelGradient.multiplications;
  return {
    given:
      `x has ${channels[0]} × ${rows.size} × ${columns.size} numbers and the kernel ${channels[1]} × ${channels[0]} × ${rows.kernel} × ${columns.kernel}; ` +
      `the padding is (${rows.before}, ${columns.before}) and the stride (${rows.stride}, ${columns.stride}), without bias, in float32. ` +
      "Products with the padding’s zeros are counted.",
    questions: [
      {
        ask: "How many multiplications does the forward pass take?",
        answer: counts.forward.multiplications,
        why:
          `The output has (${rows.size} + 2 · ${rows.before} − ${rows.kernel}) / ${rows.stride} + 1 rows, rounded down: ${height}; and likewise ${width} columns. ` +
          `Each of the ${product([channels[1], height, width])} outputs is a sum of ${product([channels[0], rows.kernel, columns.kernel])} = ${window} products: ` +
          `${product([outputs, window])} = ${grouped(counts.forward.multiplications)}.`,
      },
      {
        ask: "How many additions?",
        answer: counts.forward.additions,
        why: `A sum of ${window} products takes ${window - 1} additions, for each of ${grouped(outputs)} outputs: ${grouped(counts.forward.additions)}.`,
      },
      {
        ask: "How many bytes does the forward pass hold?",
        answer: total(forward),
        why: `Input, kernel and output: ${bytes(forward.input)} + ${bytes(forward.parameters)} + ${bytes(forward.output)} numbers of 4 bytes.`,
      },
      {
        ask: "How many bytes does the backward pass hold, with what it needs of the forward pass?",
        answer: total(backward),
        why:
          `Gradients of kernel, input and output: ${bytes(backward.parameterGradients)} + ${bytes(backward.inputGradient)} + ` +
          `${bytes(backward.outputGradient)} numbers, and ${bytes(backward.savedActivations)} more: the input, which the kernel’s gradient needs.`,
      },
      {
        ask: "How many multiplications does the backward pass take?",
        answer: both,
        why:
          `Each product x · k gives two: dy · k for the gradient of x, and dy · x for that of k. So it is twice the forward pass, ` +
          `2 · ${grouped(counts.forward.multiplications)}.`,
      },
    ],
    links: [costLink(layer, "Every term in Cost"), countsLink(layer)],
    code: [
      "import convolith as cl\n",
      `c = cl.cost(${specText(layer)})`,
      "forward, backward = c.forward, c.backward.total",
      "print([forward.multiplications, forward.additions, c.memory.forward.bytes, c.memory.backward.bytes, backward.multiplications])",
    ].join("\n"),
  };
}

export const DOUBLED: Exercise = {
  title: "Twice as many channels",
  text: "By what factor does the number of calculations grow if both channel counts are doubled? And if the padding is doubled?",
  draw: drawDoubled,
};

function drawDoubled(random: Random): Instance {
  const channels = [random.whole(1, 3), random.whole(1, 3)] as const;
  const [side, kernel, padding] = [random.whole(6, 12), random.whole(3, 5), random.whole(1, 2)];
  const layer = (times: number, around: number): Layer =>
    layerOf({
      channels: [times * channels[0], times * channels[1]],
      size: [side, side],
      kernel: [kernel, kernel],
      padding: [around, around],
    });
  const [usual, wide, around] = [layer(1, padding), layer(2, padding), layer(1, 2 * padding)];
  const of = (one: Layer): number => countsOf(one, false).forward.multiplications;
  const [, before] = outputShape(usual) as [number, number, number];
  const [, after] = outputShape(around) as [number, number, number];
  return {
    given:
      `${counted(channels[0], "input channel")} and ${counted(channels[1], "output channel")}, ${side} × ${side} inputs, kernels of ${kernel} × ${kernel}, ` +
      `padding ${padding}, stride 1. Count multiplications.`,
    questions: [
      {
        ask: "By what factor do they grow with twice as many input and output channels?",
        answer: of(wide) / of(usual),
        why:
          `Every output channel reads every input channel: ${product(channels)} pairs of them become ${product([2 * channels[0], 2 * channels[1]])}, ` +
          `and ${grouped(of(usual))} multiplications ${grouped(of(wide))}.`,
      },
      {
        ask: `By what factor do they grow with padding ${2 * padding} instead of ${padding}? Two digits after the point are enough.`,
        answer: of(around) / of(usual),
        digits: 2,
        why:
          `Only the output grows, from ${before} × ${before} to ${after} × ${after}: ${side} + 2 · ${2 * padding} − ${kernel} + 1 = ${after}. So it is ` +
          `(${after} / ${before})² = ${rounded(of(around) / of(usual))}. For large images that is close to 1.`,
      },
    ],
    links: [
      costLink(usual, "Twice the channels in Cost", { change: "channels2" }),
      costLink(usual, "Twice the padding in Cost", { change: "padding2" }),
    ],
    code: [
      "import convolith as cl\n",
      `c = cl.cost(${specText(usual)})`,
      "print([c.scaled(in_channels=2, out_channels=2).factor, c.scaled(padding=2).factor])",
    ].join("\n"),
  };
}

export const STRIPS: Exercise = {
  title: "Wider strips",
  text: "With a k × k kernel, why is it better to read a strip k + Δ wide and to compute Δ outputs at a time, than k wide and one at a time? How large should Δ be?",
  draw: drawStrips,
};

function drawStrips(random: Random): Instance {
  const [kernel, outputs, places] = [random.whole(3, 5), random.whole(4, 10), random.pick([16, 24, 32, 48, 64])];
  const layer = layerOf({ channels: [1, 1], size: [kernel, 16], kernel: [kernel, kernel] });
  const wide = readsOf(layer.columns, outputs);
  const perOutput = (count: number): number => (kernel * readsOf(layer.columns, count)) / count;
  const widest = Math.floor((places - kernel + 1) / 2);
  return {
    given:
      `The kernel is ${kernel} × ${kernel}. Outputs are computed alone, or Δ = ${outputs} side by side, from a strip of ` +
      `${kernel} + ${outputs} − 1 = ${wide} columns (the book rounds to k + Δ). The registers hold ${places} numbers: sums, and one row of the strip.`,
    questions: [
      {
        ask: "How many inputs are read for an output that is computed alone?",
        answer: perOutput(1),
        why: `Its window: ${kernel} · ${kernel} = ${perOutput(1)}. Its neighbour reads ${kernel * (kernel - 1)} of these inputs again.`,
      },
      {
        ask: `How many for each of ${outputs} outputs in the strip? Two digits after the point are enough.`,
        answer: perOutput(outputs),
        digits: 2,
        why:
          `The strip has ${kernel} · ${wide} = ${kernel * wide} inputs, each read once: ${kernel * wide} / ${outputs} = ${rounded(perOutput(outputs))} per output, ` +
          `${rounded(perOutput(1) / perOutput(outputs))} times fewer. There are as many products.`,
      },
      {
        ask: "What is the largest Δ for which sums and row fit into the registers?",
        answer: widest,
        why:
          `Δ sums and a row of ${kernel} + Δ − 1 inputs are 2 · Δ + ${kernel - 1} numbers, at most ${places}: Δ = ${widest}. Sums that do not fit go to memory ` +
          `and back, and there is little to gain: an output takes ${rounded(perOutput(widest))} reads here, and never fewer than ${kernel}.`,
      },
    ],
    links: [
      costLink({ ...layer, rows: { ...layer.rows, size: 32 }, columns: { ...layer.columns, size: 32 } }, "The strip in Cost", { strip: [1, outputs] }),
      { text: "The strip in Look", state: { view: "look", layer: layerState({ ...layer, columns: { ...layer.columns, size: wide } }) } },
    ],
    code: [
      "import convolith as cl\n",
      "",
      "def outputs(columns):  # of a strip",
      `    return cl.ConvSpec(in_channels=1, out_channels=1, size=(${kernel}, columns), kernel_size=${kernel}).output_size[1]`,
      "\n",
      `fitting = [outputs(n) for n in range(${kernel}, ${places}) if outputs(n) + n <= ${places}]`,
      `print([${kernel} * n / outputs(n) for n in (${kernel}, ${wide})] + [max(fitting)])`,
    ].join("\n"),
  };
}

export const BLOCKS: Exercise = {
  title: "Block-diagonal matrices",
  text: "How much faster is a product with a c × c matrix that is broken up into b blocks on its diagonal? What is the downside, and how can it be repaired in part?",
  draw: drawBlocks,
};

function drawBlocks(random: Random): Instance {
  const blocks = random.whole(2, 4);
  const side = random.whole(2, 6);
  const channels = blocks * side;
  const layer = (groups: number, count = channels): Layer => layerOf({ channels: [count, count], size: [1, 1], kernel: [1, 1], groups });
  const of = (groups: number): number => countsOf(layer(groups), false).forward.multiplications;
  const small = blocks === 4 ? 4 : 6;
  const reached = reach(layer(blocks), true);
  return {
    given:
      `A matrix of ${channels} × ${channels} in ${blocks} blocks of ${side} × ${side}: a 1 × 1 convolution with ${blocks} groups is a product with it, for each pixel.`,
    questions: [
      {
        ask: "By what factor are there fewer multiplications than with the whole matrix?",
        answer: of(1) / of(blocks),
        why: `The whole matrix takes ${channels} · ${channels} = ${of(1)}, the blocks ${blocks} · ${side} · ${side} = ${of(blocks)}: ${rounded(of(1) / of(blocks))} times fewer.`,
      },
      {
        ask: "On how many inputs does each output depend?",
        answer: reach(layer(blocks), false),
        why: `Only on the ${side} of its own block, instead of all ${channels}. That is the downside: nothing passes from block to block, however many such products follow.`,
      },
      {
        ask:
          "Now the outputs are dealt out to the blocks like cards, one by one, and a second such product follows. On how many inputs does each of its outputs depend?",
        answer: reached,
        why:
          `Each second block gets outputs of ${Math.min(blocks, side)} first blocks, and each of these depends on ${side} inputs: ${reached} ` +
          `of ${channels}. Both products together take ${2 * of(blocks)} multiplications, ${2 * of(blocks) < of(1) ? "still fewer than" : "as many as"} the ${of(1)} of the whole matrix.`,
      },
    ],
    links: [
      {
        text: `${small} channels in ${blocks} blocks in Look, as a matrix product`,
        state: { view: "look", layer: layerState(layer(blocks, small)) },
      },
    ],
    code: [
      "import numpy as np\n",
      "import convolith as cl\n",
      `whole, blocks = (cl.cost(cl.ConvSpec(in_channels=${channels}, out_channels=${channels}, size=1, kernel_size=1, groups=b)) for b in (1, ${blocks}))`,
      `product = cl.Conv(np.ones((${channels}, ${side}, 1)), groups=${blocks})`,
      `once = product(np.eye(${channels})[:, :, None])  # one image for each input`,
      `dealt = once.reshape(${channels}, ${blocks}, ${side}).swapaxes(1, 2).reshape(once.shape)`,
      "inputs = [int(np.count_nonzero(y[:, 0])) for y in (once, product(dealt))]",
      "print([whole.forward.multiplications / blocks.forward.multiplications, *inputs])",
    ].join("\n"),
  };
}

/** Count the inputs that one output depends on, after a product or after two with the channels dealt out between them. */
function reach(layer: Layer, twice: boolean): number {
  const channels = layer.inChannels;
  const ones: Tensor = { shape: [channels, channels / layer.groups, 1, 1], data: new Float64Array((channels * channels) / layer.groups).fill(1) };
  let found = zeros(inputShape(layer));
  found.data[0] = 1;
  found = inputGradient(layer, ones, found);
  if (twice) {
    const side = channels / layer.groups;
    const dealt = found.data.map((_, place) => found.data[(place % side) * layer.groups + Math.floor(place / side)]!);
    found = inputGradient(layer, ones, { shape: found.shape, data: dealt });
  }
  return found.data.filter((value) => value !== 0).length;
}

export const ONE_BY_ONE: Exercise = {
  title: "Kernels of 1 × 1",
  text: "What does the forward pass cost if the kernel is 1 × 1? (An exercise of the book’s earlier editions.)",
  draw: drawOneByOne,
};

function drawOneByOne(random: Random): Instance {
  const channels = [random.whole(2, 6), random.whole(2, 6)] as const;
  const size = [random.whole(3, 9), random.whole(3, 9)] as const;
  const layer = layerOf({ channels, size, kernel: [1, 1] });
  const larger = layerOf({ channels, size, kernel: [3, 3], padding: [1, 1] });
  const { multiplications, additions } = countsOf(layer, false).forward;
  const factor = countsOf(larger, false).forward.multiplications / multiplications;
  const pixels = size[0] * size[1];
  return {
    given: `${channels[0]} input channels and ${channels[1]} output channels, ${size[0]} × ${size[1]} pixels, no padding, no bias.`,
    questions: [
      {
        ask: "How many multiplications does the forward pass take?",
        answer: multiplications,
        why: `Each pixel’s ${channels[0]} channels are multiplied with a matrix of ${channels[1]} × ${channels[0]}: ${product([channels[1], channels[0]])} products for each of ${pixels} pixels.`,
      },
      {
        ask: "How many additions?",
        answer: additions,
        why: `A sum of ${channels[0]} products takes ${channels[0] - 1} ${channels[0] === 2 ? "addition" : "additions"}, for each of ${product([channels[1], pixels])} outputs: ${grouped(additions)}.`,
      },
      {
        ask: "How many times as many multiplications does a 3 × 3 kernel with padding 1 take?",
        answer: factor,
        why: `The output has as many pixels, and each product becomes 3 · 3 = ${rounded(factor)}. A 1 × 1 kernel sees no neighbours; it only mixes channels.`,
      },
    ],
    links: [{ text: "This layer in Look, as a matrix product", state: { view: "look", layer: layerState(layer) } }],
    code: [
      "import convolith as cl\n",
      `one = cl.cost(${specText(layer)}).forward`,
      `three = cl.cost(${specText(larger)}).forward`,
      "print([one.multiplications, one.additions, three.multiplications / one.multiplications])",
    ].join("\n"),
  };
}
