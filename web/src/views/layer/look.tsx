/** The view "Look": a layer forward, cell by cell. */

import { computed } from "@preact/signals";
import { indicesOf, type Layer, nested, type Product, productsOfInput, productsOfOutput, productsOfTap } from "../../core";
import type { Cell } from "../../state";
import { layerState } from "../../state/store";
import type { Explanation, GridModel } from "../../parts/board";
import { Code } from "../../parts/code";
import { ArrayView, FigureFrame, Sign } from "../../parts/figure";
import { counted } from "../../parts/numbers";
import { Playback } from "../../parts/playback";
import { Sum } from "../../parts/sum";
import { type Arrays, arrays, biasGrid, inputGrid, placeOf, plainGrid, refused, sourceOf } from "./layer_arrays";
import { LayerControls } from "./layer_controls";
import { LayerFormula } from "./layer_formula";
import { arrangement, biasBlock, block, channelLabel, KernelArray, kernelBlock } from "./layer_parts";
import { linesBy, makeBoard } from "../make_board";
import { MatrixProduct } from "./matrix_product";
import { lookCode } from "../python";

const grids = computed((): ReadonlyMap<string, GridModel> => {
  const found = arrays.value;
  if (!found) return new Map();
  const { layer, k, y, bias } = found;
  const models = [inputGrid(found), plainGrid("k", "k", k, layer.axes), plainGrid("y", "y", y, layer.axes)];
  if (bias) models.push(biasGrid("b", "b", bias));
  return new Map(models.map((model) => [model.id, model]));
});

export const lookBoard = makeBoard(grids, () => ({ grid: "y", at: [0, 0, 0] }), (cell) => explain(arrays.value!, cell));

function explain(found: Arrays, cell: Cell): Explanation {
  switch (cell.grid) {
    case "y":
      return explainOutput(found, cell);
    case "k":
      return explainTap(found, cell);
    case "b":
      return explainBias(found, cell);
    default:
      return explainInput(found, cell);
  }
}

const factors = (product: Product): Cell[] => [
  { grid: "x", at: product.padded },
  { grid: "k", at: product.tap },
];

function explainOutput({ layer, maps, bias }: Arrays, cell: Cell): Explanation {
  const products = productsOfOutput(layer, maps, cell.at);
  const zeros = products.filter((product) => product.input === null).length;
  const lines = linesBy(
    products,
    (product) => product.padded[0]!,
    (channel) => `input channel ${channel}`,
    (product) => ({ factors: factors(product) }),
  );
  return {
    cell,
    about:
      `The sum of ${counted(products.length, "product")} of an input and a kernel element` +
      (lines.length > 1 ? `, over ${lines.length} input channels` : "") +
      (zeros ? `; ${zeros} of them with zeros of the padding` : "") +
      (bias ? ", and the bias" : "") +
      ".",
    lines,
    ...(bias ? { added: { grid: "b", at: [0, 0, cell.at[0]!] } } : {}),
    isSum: true,
  };
}

function explainInput({ layer, maps }: Arrays, cell: Cell): Explanation {
  const source = sourceOf(layer, cell.at);
  const itself = source && placeOf(layer, source).every((n, axis) => n === cell.at[axis]);
  const all = source ? productsOfInput(layer, maps, source) : [];
  const products = itself ? all : all.filter((product) => product.padded.every((n, axis) => n === cell.at[axis]));
  const outputs = new Set(products.map((product) => product.output.join())).size;
  const uses = `It is used in ${counted(products.length, "product")} for ${counted(outputs, "output")}.`;
  const copies = all.some((product) => product.padded.some((n, axis) => n !== cell.at[axis]));
  return {
    cell,
    about: !source
      ? "A zero of the padding: its products are zero, and add nothing to any output."
      : itself
        ? `An input. ${uses}${copies ? " Some of them read it through the padding that repeats it." : ""}`
        : `A place of the padding that repeats an input. ${uses}`,
    lines: linesBy(
      products,
      (product) => product.output[0]!,
      (channel) => `output channel ${channel}`,
      (product) => ({ factors: factors(product), into: { grid: "y", at: product.output } }),
    ),
    isSum: false,
  };
}

function explainTap({ layer, maps }: Arrays, cell: Cell): Explanation {
  const products = productsOfTap(layer, maps, cell.at);
  return {
    cell,
    about:
      `A kernel element. It takes part in ${counted(products.length, "product")}, one for each output ` +
      "that it reaches: the same number everywhere.",
    lines: linesBy(
      products,
      (product) => product.output[0]!,
      (channel) => `output channel ${channel}`,
      (product) => ({ factors: factors(product), into: { grid: "y", at: product.output } }),
    ),
    isSum: false,
  };
}

function explainBias({ y }: Arrays, cell: Cell): Explanation {
  const channel = cell.at[2]!;
  return {
    cell,
    about: `The bias of output channel ${channel}: it is added once to each of its ${counted(y.shape[1]! * y.shape[2]!, "output")}.`,
    lines: [],
    isSum: false,
  };
}

export function Look() {
  const found = arrays.value;
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          Each output is a sum of products. <strong>Point at a cell</strong>, or walk with the arrow keys: the window,
          the kernel and the output light up together, and the sum is written out. Click or press Enter to pin a cell.
        </p>
        {found ? <Drawn found={found} /> : <Refused />}
      </div>
      <LayerControls />
    </div>
  );
}

export function Refused() {
  return (
    <p class="card refusal" role="status">
      {refused.value}
    </p>
  );
}

function Drawn({ found }: { found: Arrays }) {
  const { layer, y } = found;
  const models = grids.value;
  const bias = found.bias ? [biasBlock(layer.outChannels)] : [];
  const { side, stacking } = arrangement([block(found.paddedX), kernelBlock(layer), ...bias, block(y)], layer.axes);
  const cells = outputCells.value;
  return (
    <>
      <FigureFrame
        name="convolith-look"
        label="Input, kernel and output"
        stacking={stacking}
        side={side}
        actions={<Playback board={lookBoard} cells={cells} noun="output" />}
      >
        <ArrayView
          board={lookBoard}
          model={models.get("x")!}
          title="Input x"
          note={inputNote(layer)}
          side={side}
          pageLabel={channelLabel}
        />
        <Sign>{layer.flip ? "∗" : "⋆"}</Sign>
        <KernelArray board={lookBoard} model={models.get("k")!} layer={layer} side={side} />
        {models.has("b") && (
          <>
            <Sign>+</Sign>
            <ArrayView
              board={lookBoard}
              model={models.get("b")!}
              title="Bias b"
              side={side}
              pageLabel={() => ""}
              pages={[[[0]]]}
            />
          </>
        )}
        <Sign>=</Sign>
        <ArrayView
          board={lookBoard}
          model={models.get("y")!}
          title="Output y"
          note={`${counted(layer.outChannels, "channel")}, ${y.shape.slice(3 - layer.axes).join(" × ")}`}
          side={side}
          pageLabel={channelLabel}
        />
      </FigureFrame>
      <Sum board={lookBoard} />
      <LayerFormula layer={layer} biased={found.bias !== null} />
      <MatrixProduct found={found} board={lookBoard} />
      <details class="card">
        <summary>Output as text</summary>
        <pre id="output-text" tabIndex={0} aria-label="Output as nested lists">
          {JSON.stringify(nested(y, layer.axes === 1 ? [1] : []))}
        </pre>
      </details>
      <Code code={lookCode(found)} />
    </>
  );
}

const outputCells = computed((): Cell[] => {
  const shape = arrays.value?.y.shape ?? [];
  const count = shape.length ? shape[0]! * shape[1]! * shape[2]! : 0;
  return Array.from({ length: count }, (_, place) => ({ grid: "y", at: indicesOf(shape, place) }));
});

export function inputNote(layer: Layer): string {
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const size = axes.map((axis) => axis.size).join(" × ");
  const isPadded = !layer.transposed && axes.some((axis) => axis.before || axis.after);
  const padding = isPadded ? `, dashed: the padding (${layerState.value.layer.mode})` : "";
  return `${counted(layer.inChannels, "channel")}, ${size}${padding}`;
}
