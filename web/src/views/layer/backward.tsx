/** The view "Backward": the gradients of a layer's input, kernel and bias, cell by cell. */

import { computed, signal } from "@preact/signals";
import {
  indicesOf,
  type Layer,
  nested,
  outputShape,
  type Product,
  productsOfInput,
  productsOfOutput,
  productsOfTap,
} from "../../core";
import type { Cell } from "../../state";
import type { Explanation, GridModel, Line, Term } from "../../parts/board";
import { Code } from "../../parts/code";
import { Choice } from "../../parts/controls";
import { ArrayView, FigureFrame, Sign } from "../../parts/figure";
import { counted } from "../../parts/numbers";
import { Playback } from "../../parts/playback";
import { Sum } from "../../parts/sum";
import { flippedTap, type SpreadArrays, spreadArrays, spreadPlace, spreadSource } from "./backward_arrays";
import { LayerCounts } from "./layer_counts";
import { type Arrays, arrays, biasGrid, elementName, inputGrid, isPadding, plainGrid, sourceOf } from "./layer_arrays";
import { LayerControls } from "./layer_controls";
import { arrangement, biasBlock, block, channelLabel, KernelArray, kernelBlock } from "./layer_parts";
import { Refused } from "./look";
import { linesBy, makeBoard } from "../make_board";
import { backwardCode } from "../python";

const spread = computed(() => arrays.value && spreadArrays(arrays.value));

const grids = computed((): ReadonlyMap<string, GridModel> => {
  const found = arrays.value;
  const wide = spread.value;
  if (!found || !wide) return new Map();
  const { layer, k, dy, dx, dk, db, bias } = found;
  const { axes } = layer;
  const models: GridModel[] = [
    { ...inputGrid(found), edit: undefined },
    { ...plainGrid("k", "k", k, axes), edit: undefined },
    plainGrid("dy", "dy", dy, axes),
    plainGrid("dx", "dx", dx, axes),
    plainGrid("dk", "dk", dk, axes),
    {
      id: "s",
      values: wide.spread,
      axes,
      nameOf: (at) => {
        const source = spreadSource(wide, layer, at);
        return source ? elementName("dy", source, axes) : "zero";
      },
      isPadding: (at) => spreadSource(wide, layer, at) === null,
    },
    { id: "r", values: wide.flipped, axes, nameOf: (at) => elementName("k", flippedTap(wide, layer, at), axes) },
  ];
  if (wide.paddedGradient) {
    models.push({
      id: "p",
      values: wide.paddedGradient,
      axes,
      nameOf: (at) => elementName("dp", at, axes),
      isPadding: (at) => isPadding(layer, at),
    });
  }
  if (bias) models.push(biasGrid("db", "db", db));
  return new Map(models.map((model) => [model.id, model]));
});

export const backwardBoard = makeBoard(grids, middle, (cell) =>
  explain(arrays.value!, spread.value!, cell),
);

/** Return an input in the middle, which touches more outputs than the corners do. */
function middle(): Cell {
  const [, height, width] = arrays.value!.dx.shape as [number, number, number];
  return { grid: "dx", at: [0, height >> 1, width >> 1] };
}

const tapOf = (product: Product): Cell => ({ grid: "k", at: product.tap });
const gradientOf = (product: Product): Cell => ({ grid: "dy", at: product.output });
const inputOf = (product: Product): Cell => ({ grid: "x", at: product.padded });
const outputChannel = (channel: number): string => `output channel ${channel}`;

function explain(found: Arrays, wide: SpreadArrays, cell: Cell): Explanation {
  const { layer, maps } = found;
  switch (cell.grid) {
    case "dx":
      return explainInput(found, wide, cell, productsOfInput(layer, maps, cell.at));
    case "p":
      return explainPlace(found, wide, cell);
    case "dk":
      return explainTap(found, cell);
    case "db":
      return explainBias(found, cell);
    case "dy":
      return explainOutput(found, wide, cell, cell.at);
    case "s": {
      const source = spreadSource(wide, layer, cell.at);
      return source
        ? explainOutput(found, wide, cell, source)
        : { cell, about: "A zero around or between the elements of dy: its products add nothing.", lines: [], isSum: false };
    }
    case "x":
      return explainUse(found, cell);
    default:
      return explainKernel(found, wide, cell);
  }
}

/** Return the terms of the input's gradient, with the same cells in the figure of the correlation. */
function inputLines(found: Arrays, wide: SpreadArrays, products: readonly Product[]): Line[] {
  return linesBy(products, (product) => product.output[0]!, outputChannel, (product) => ({
    factors: [tapOf(product), gradientOf(product)],
    also: correlated(found.layer, wide, product),
  }));
}

function correlated(layer: Layer, wide: SpreadArrays, product: Product): Cell[] {
  const cells: Cell[] = [
    { grid: "s", at: spreadPlace(wide, product.output) },
    { grid: "r", at: flippedTap(wide, layer, product.tap) },
  ];
  if (wide.paddedGradient) cells.push({ grid: "p", at: product.padded });
  return cells;
}

function explainInput(found: Arrays, wide: SpreadArrays, cell: Cell, products: readonly Product[]): Explanation {
  const outputs = new Set(products.map((product) => product.output.join())).size;
  return {
    cell,
    about: outputs
      ? `This input touches ${counted(outputs, "output")}. If it grows by a small amount, an output grows by that amount ` +
        "times the kernel element between the two; the sum weighs this with dy, the loss’s gradient at the output."
      : "No output reads this input, so that its gradient is zero.",
    lines: inputLines(found, wide, products),
    isSum: outputs > 0,
  };
}

function explainPlace(found: Arrays, wide: SpreadArrays, cell: Cell): Explanation {
  const { layer, maps } = found;
  const source = sourceOf(layer, cell.at)!;
  const products = productsOfInput(layer, maps, source).filter((product) => product.padded.every((n, axis) => n === cell.at[axis]));
  const target = elementName("dx", source, layer.axes);
  return {
    cell,
    about: `The gradient of one place of the padded input. It is added to ${target}, the input that stands there.`,
    lines: inputLines(found, wide, products),
    isSum: products.length > 0,
  };
}

function explainTap({ layer, maps }: Arrays, cell: Cell): Explanation {
  const products = productsOfTap(layer, maps, cell.at);
  return {
    cell,
    about:
      `This kernel element is used once for each of ${counted(products.length, "output")}, each time with another input: ` +
      "the sum of these inputs, weighted with dy.",
    lines: linesBy(products, (product) => product.output[0]!, outputChannel, (product) => ({
      factors: [inputOf(product), gradientOf(product)],
    })),
    isSum: products.length > 0,
  };
}

function explainBias({ dy }: Arrays, cell: Cell): Explanation {
  const channel = cell.at[2]!;
  const pixels = dy.shape[1]! * dy.shape[2]!;
  const terms: Term[] = Array.from({ length: pixels }, (_, pixel) => ({
    factors: [{ grid: "dy", at: [channel, ...indicesOf(dy.shape.slice(1), pixel)] }],
  }));
  return {
    cell,
    about: "The bias is added to every output of its channel, so that its gradient is the sum of dy over them.",
    lines: [{ label: outputChannel(channel), terms }],
    isSum: true,
  };
}

function explainOutput(found: Arrays, wide: SpreadArrays, cell: Cell, output: readonly number[]): Explanation {
  const { layer, maps } = found;
  const products = productsOfOutput(layer, maps, output).filter((product) => product.input !== null);
  return {
    cell,
    about:
      "The gradient of the loss with respect to one output, which is given. It is passed on to the inputs that the " +
      "output read, each time multiplied by the kernel element between them.",
    lines: linesBy(products, (product) => product.input![0]!, (channel) => `input channel ${channel}`, (product) => ({
      factors: [tapOf(product), gradientOf(product)],
      into: { grid: "dx", at: product.input! },
      also: correlated(layer, wide, product),
    })),
    isSum: false,
  };
}

function explainUse({ layer, maps }: Arrays, cell: Cell): Explanation {
  const source = sourceOf(layer, cell.at);
  const products = (source ? productsOfInput(layer, maps, source) : []).filter((product) =>
    product.padded.every((n, axis) => n === cell.at[axis]),
  );
  return {
    cell,
    about: source
      ? "An input. In the kernel’s gradient, it is multiplied by the dy of each output that read it."
      : "A zero of the padding: it adds nothing to the kernel’s gradient.",
    lines: linesBy(products, (product) => product.output[0]!, outputChannel, (product) => ({
      factors: [inputOf(product), gradientOf(product)],
      into: { grid: "dk", at: product.tap },
    })),
    isSum: false,
  };
}

function explainKernel(found: Arrays, wide: SpreadArrays, cell: Cell): Explanation {
  const { layer, maps } = found;
  const tap = cell.grid === "r" ? flippedTap(wide, layer, cell.at) : cell.at;
  const products = productsOfTap(layer, maps, tap).filter((product) => product.input !== null);
  return {
    cell,
    about: `A kernel element. It carries ${counted(products.length, "element")} of dy back to the inputs that it was multiplied by.`,
    lines: linesBy(products, (product) => product.output[0]!, outputChannel, (product) => ({
      factors: [tapOf(product), gradientOf(product)],
      into: { grid: "dx", at: product.input! },
      also: correlated(layer, wide, product),
    })),
    isSum: false,
  };
}

const way = signal<"touched" | "correlation">("touched");

export function Backward() {
  const found = arrays.value;
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          Training needs the loss’s gradients. <strong>Point at an input’s gradient</strong>: the outputs that the input
          touches light up, and the sum over them is written out. The kernel’s gradient below works the same way.
        </p>
        {found ? <Drawn found={found} /> : <Refused />}
      </div>
      <LayerControls gradient />
    </div>
  );
}

function Drawn({ found }: { found: Arrays }) {
  return (
    <>
      <InputGradient found={found} />
      <KernelGradient found={found} />
      <Sum board={backwardBoard} />
      <LayerCounts layer={found.layer} biased={found.bias !== null} />
      <details class="card">
        <summary>Gradients as text</summary>
        <pre id="output-text" tabIndex={0} aria-label="Gradients of x, k and b as nested lists">
          {JSON.stringify(gradientLists(found))}
        </pre>
      </details>
      <Code code={backwardCode(found)} />
    </>
  );
}

function gradientLists({ layer, dx, dk, db, bias }: Arrays): unknown[] {
  const flat = layer.axes === 1;
  return [nested(dx, flat ? [1] : []), nested(dk, flat ? [2] : []), ...(bias ? [nested(db)] : [])];
}

const inputCells = computed((): Cell[] => {
  const shape = arrays.value?.dx.shape;
  if (!shape) return [];
  return Array.from({ length: shape[0]! * shape[1]! * shape[2]! }, (_, place) => ({ grid: "dx", at: indicesOf(shape, place) }));
});

function InputGradient({ found }: { found: Arrays }) {
  const { layer, dx, dy } = found;
  const models = grids.value;
  const wide = spread.value!;
  const correlation = way.value === "correlation";
  const source = models.get(correlation ? "s" : "dy")!;
  const between = correlation && wide.paddedGradient ? [block(wide.paddedGradient)] : [];
  const { side, stacking } = arrangement([block(source.values), kernelBlock(layer), ...between, block(dx)], layer.axes);
  const shared = { board: backwardBoard, side, pageLabel: channelLabel };
  return (
    <FigureFrame
      name="convolith-input-gradient"
      label="The gradient of the input"
      stacking={stacking}
      side={side}
      actions={<Playback board={backwardBoard} cells={inputCells.value} noun="input" />}
      heading={
        <>
          <h2>The gradient of the input</h2>
          <Choice
            label="Seen as"
            options={[
              ["touched", "the outputs touched"],
              ["correlation", "a correlation"],
            ]}
            value={way.value}
            onChange={(value) => (way.value = value)}
          />
          {correlation && <p class="note">{correlationText(layer, wide)}</p>}
        </>
      }
    >
      <ArrayView
        {...shared}
        model={source}
        title={correlation ? "dy, ready to be read" : "Gradient dy (given)"}
        note={`${counted(layer.outChannels, "channel")}, ${sizeText(correlation ? wide.spread.shape : dy.shape, layer)}`}
      />
      <Sign>⋆</Sign>
      <KernelArray
        board={backwardBoard}
        model={models.get(correlation ? "r" : "k")!}
        layer={layer}
        side={side}
        title={correlation && wide.backwards ? "Kernel k, flipped" : "Kernel k"}
        note={correlation ? "from output to input channels" : undefined}
      />
      {correlation && wide.paddedGradient && (
        <>
          <Sign>=</Sign>
          <ArrayView {...shared} model={models.get("p")!} title="Gradient of the padded x" note="its padding is added to the inputs that it repeats" />
        </>
      )}
      <Sign>{correlation && wide.paddedGradient ? "→" : "="}</Sign>
      <ArrayView
        {...shared}
        model={models.get("dx")!}
        title="Gradient dx"
        note={`${counted(layer.inChannels, "channel")}, ${sizeText(dx.shape, layer)}`}
      />
    </FigureFrame>
  );
}

function sizeText(shape: readonly number[], layer: Layer): string {
  return shape.slice(3 - layer.axes).join(" × ");
}

/** Say how the gradient of the input is a correlation of dy with the kernel. */
function correlationText(layer: Layer, wide: SpreadArrays): string {
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const strides = axes.map((axis) => axis.stride).join(" × ");
  const kernel = wide.backwards ? "the flipped kernel" : "the kernel";
  const dilation = axes.some((axis) => axis.dilation > 1) ? ", with the same dilation" : "";
  if (layer.transposed) {
    return `A transposed layer’s gradient is an ordinary correlation of dy with ${kernel}, with the stride ${strides}${dilation}.`;
  }
  const zerosBetween = axes.some((axis) => axis.stride > 1) ? `, with zeros between its elements for the stride ${strides}` : "";
  const cropped = axes.some((axis) => axis.before || axis.after) && layer.mode === "zeros" ? ", less the layer’s own padding" : "";
  return (
    `dx is the full correlation of dy with ${kernel}${dilation}: dy is padded so that every tap reaches every element` +
    `${cropped}${zerosBetween}. The channels change their roles.`
  );
}

function KernelGradient({ found }: { found: Arrays }) {
  const { layer, paddedX, dy, bias } = found;
  const models = grids.value;
  const { side, stacking } = arrangement(
    [block(paddedX), block(dy), kernelBlock(layer), ...(bias ? [biasBlock(layer.outChannels)] : [])],
    layer.axes,
  );
  const shared = { board: backwardBoard, side, pageLabel: channelLabel };
  return (
    <FigureFrame
      name="convolith-kernel-gradient"
      label="The gradient of the kernel"
      stacking={stacking}
      side={side}
      heading={
        <>
          <h2>The gradient of the kernel{bias ? " and the bias" : ""}</h2>
          <p class="note">{kernelText(layer)}</p>
        </>
      }
    >
      <ArrayView {...shared} model={models.get("x")!} title="Input x" note={counted(layer.inChannels, "channel")} />
      <Sign>⋆</Sign>
      <ArrayView {...shared} model={models.get("dy")!} title="Gradient dy (given)" note={sizeText(outputShape(layer), layer)} />
      <Sign>=</Sign>
      <KernelArray board={backwardBoard} model={models.get("dk")!} layer={layer} side={side} title="Gradient dk" note={undefined} />
      {bias && (
        <ArrayView {...shared} model={models.get("db")!} title="Gradient db" note="sums of dy" pageLabel={() => ""} pages={[[[0]]]} />
      )}
    </FigureFrame>
  );
}

/** Say how the gradient of the kernel is a correlation of x with dy. */
function kernelText(layer: Layer): string {
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const dilations = axes.map((axis) => axis.dilation);
  const strides = axes.map((axis) => axis.stride);
  const swapped =
    [...dilations, ...strides].some((n) => n > 1)
      ? ` Stride and dilation change their roles: dy is moved by ${dilations.join(" × ")} and spread by ${strides.join(" × ")}.`
      : "";
  if (layer.transposed) return `The kernel’s gradient is a correlation in which x takes the place of the kernel, moved over dy.${swapped}`;
  const flip = layer.flip ? " The result is flipped, as the kernel is." : "";
  return `The kernel’s gradient is a correlation of x (with its padding) in which dy takes the place of the kernel, channel by channel.${swapped}${flip}`;
}
