/** The view "Fold": two or three convolutions as one, the pixels where that is wrong, and kernels that come apart. */

import { computed, signal } from "@preact/signals";
import type { VNode } from "preact";
import { type Block, type Fill, filled, indicesOf, inputShape, kernelShape, type Layer, nested, offset, receptiveField, replaced, type Tensor } from "../../core";
import { type Cell, foldLayers, ORDINALS } from "../../state";
import { foldState, setBlock, setFold } from "../../state/store";
import type { GridModel } from "../../parts/board";
import { Code } from "../../parts/code";
import { Selection } from "../../parts/controls";
import { ArrayView, FigureFrame, Sign } from "../../parts/figure";
import { counted, grouped, short } from "../../parts/numbers";
import { Playback } from "../../parts/playback";
import { Sum } from "../../parts/sum";
import { type FoldArrays, foldArrays, foldRefused, pageFactors } from "./fold_arrays";
import { FoldControls } from "./fold_controls";
import { explainFold } from "./fold_explain";
import { elementName, isPadding, sourceOf } from "../layer/layer_arrays";
import { arrangement, biasBlock, block, channelLabel, KernelArray, kernelBlock } from "../layer/layer_parts";
import { makeBoard } from "../make_board";
import { foldCode } from "../python";

const page = signal<readonly [number, number]>([0, 0]);
const shownPage = computed((): [number, number] => {
  const shape = foldArrays.value?.folded.block.kernel.shape ?? [1, 1];
  return [Math.min(page.value[0], shape[0]! - 1), Math.min(page.value[1], shape[1]! - 1)];
});
const factored = computed(() => foldArrays.value && pageFactors(foldArrays.value, shownPage.value));

/** Store a new value of a block's kernel, or of its bias. */
function editBlock(place: number, key: "k" | "bias", shape: readonly number[]) {
  return (at: readonly number[], value: number): void => {
    const { blocks } = foldState.value;
    const values = filled(blocks[place]![key] as Fill, shape);
    const own = key === "bias" ? [at[2]!] : at;
    setBlock(place, { [key]: { given: replaced(values, offset(shape, own), value) } });
  };
}

function editInput(at: readonly number[], value: number): void {
  const shape = inputShape(foldLayers(foldState.value)[0]!);
  setFold({ x: { given: replaced(filled(foldState.value.x, shape), offset(shape, at), value) } });
}

const grids = computed((): ReadonlyMap<string, GridModel> => {
  const found = foldArrays.value;
  const parts = factored.value;
  if (!found || !parts) return new Map();
  const { blocks, folded } = found;
  const whole = folded.block.layer;
  const plain = (id: string, symbol: string, values: Tensor): GridModel => ({
    id,
    values,
    axes: 2,
    nameOf: (at) => elementName(symbol, at, 2),
  });
  const bias = (id: string, symbol: string, values: Tensor): GridModel => ({
    ...plain(id, symbol, { shape: [1, 1, values.shape[0]!], data: values.data }),
    nameOf: (at) => `${symbol}[${at[2]}]`,
  });
  const models: GridModel[] = [
    {
      ...plain("x", "x", found.x),
      nameOf: (at) => {
        const source = sourceOf(whole, at);
        return source ? elementName("x", source, 2) : "padding";
      },
      isPadding: (at) => isPadding(whole, at),
      takes: (at) => sourceOf(whole, at) !== null,
      edit: (at, value) => editInput(sourceOf(whole, at)!, value),
    },
    plain("w", "k", folded.block.kernel),
    plain("y", "y", found.expected),
    plain("z", "z", found.output),
    plain("e", "e", found.difference),
    plain("f", "k", parts.kernel),
    plain("c", "column", parts.factors.column),
    plain("r", "row", parts.factors.row),
    plain("p", "product", outer(parts.factors.column, parts.factors.row)),
  ];
  blocks.forEach(({ layer, kernel, bias: own }, n) => {
    if (n === found.state.blocks.length) {
      models.push(plain("i", "identity", kernel));
      return;
    }
    models.push({ ...plain(`w${n + 1}`, `k${n + 1}`, kernel), edit: editBlock(n, "k", kernelShape(layer)) });
    if (own) models.push({ ...bias(`b${n + 1}`, `b${n + 1}`, own), edit: editBlock(n, "bias", own.shape) });
  });
  if (folded.block.bias) models.push(bias("b", "b", folded.block.bias));
  const two = firstTwo(found);
  if (two) {
    models.push(plain("v", "k12", two.kernel));
    if (two.bias) models.push(bias("bv", "b12", two.bias));
  }
  found.gaps.forEach(({ hidden, missing }, n) => {
    const reader = blocks[n + 1]!.layer;
    const number = n ? String(n + 1) : "";
    const nameOf = (symbol: string) => (at: readonly number[]): string => {
      const source = isPadding(reader, at) ? null : sourceOf(reader, at);
      return source ? elementName(symbol + number, source, 2) : symbol === "h" ? "padding" : `beyond[${at.join(",")}]`;
    };
    const padding = (at: readonly number[]): boolean => isPadding(reader, at);
    models.push({ ...plain(`h${number}`, "", hidden), nameOf: nameOf("h"), isPadding: padding });
    models.push({ ...plain(`g${number}`, "", missing), nameOf: nameOf("g"), isPadding: padding });
  });
  return new Map(models.map((model) => [model.id, model]));
});

/** Return what the first two of three in a row fold into. */
function firstTwo({ prefixes }: FoldArrays): Block | undefined {
  return prefixes.length > 2 ? prefixes[1] : undefined;
}

function outer(column: Tensor, row: Tensor): Tensor {
  const data = Float64Array.from(column.data).reduce<number[]>((all, a) => [...all, ...Array.from(row.data, (b) => a * b)], []);
  return { shape: [column.shape[0]!, row.shape[1]!], data: Float64Array.from(data) };
}

function firstCell(): Cell {
  const [, , height, width] = foldArrays.value!.folded.block.kernel.shape as [number, number, number, number];
  return { grid: "w", at: [0, 0, height >> 1, width >> 1] };
}

export const foldBoard = makeBoard(grids, firstCell, (cell) => explainFold(foldArrays.value!, cell));

export function Fold() {
  const found = foldArrays.value;
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          Convolutions without anything between them are one, with a larger kernel. <strong>Point at an element of
          the folded kernel</strong> to see what makes it, and at a difference to see why the borders may be wrong.
        </p>
        {found ? (
          <Drawn found={found} />
        ) : (
          <p class="card refusal" role="status">
            {foldRefused.value}
          </p>
        )}
      </div>
      <FoldControls />
    </div>
  );
}

const kernelCells = computed((): Cell[] => {
  const kernel = foldArrays.value?.folded.block.kernel;
  return kernel ? Array.from(kernel.data, (_, place) => ({ grid: "w", at: indicesOf(kernel.shape, place) })) : [];
});

function Drawn({ found }: { found: FoldArrays }) {
  return (
    <>
      <Kernels found={found} />
      <Verdict found={found} />
      <Outputs found={found} />
      {found.gaps.map((_, n) => (
        <Between key={n} found={found} gap={n + 1} />
      ))}
      <Factoring found={found} />
      <Sum board={foldBoard} />
      <details class="card">
        <summary>Folded kernel and differences as text</summary>
        <pre id="output-text" tabIndex={0} aria-label="Folded kernel and differences as nested lists">
          {JSON.stringify([nested(found.folded.block.kernel), nested(found.difference)])}
        </pre>
      </details>
      <Code code={foldCode(found)} />
    </>
  );
}

const capital = (word: string): string => word[0]!.toUpperCase() + word.slice(1);

/** A kernel in a figure, with the sign before it. */
type Shown = readonly [id: string, layer: Layer, title: string, sign: string];

/** The kernels, and the one that they become; three in a row fold two by two. */
function Kernels({ found }: { found: FoldArrays }) {
  const { blocks, folded, state } = found;
  const sign = state.arrangement === "row" ? "then" : "+";
  const all = blocks.map(({ layer }, n): Shown =>
    n < state.blocks.length
      ? [`w${n + 1}`, layer, `${capital(ORDINALS[n]!)} kernel k${n + 1}`, sign]
      : ["i", layer, "The input itself", sign],
  );
  const whole: Shown = ["w", folded.block.layer, "Folded kernel k", "="];
  const playback = <Playback board={foldBoard} cells={kernelCells.value} noun="kernel element" />;
  const two = firstTwo(found);
  if (!two) {
    return <KernelFigure name="convolith-fold" shown={[...all, whole]} biases={["b1", "b2", "b3", "b"]} actions={playback} />;
  }
  const between: Shown = ["v", two.layer, "The first two: k12", "="];
  const [one, other, third] = all as [Shown, Shown, Shown];
  return (
    <>
      <KernelFigure name="convolith-fold-two" shown={[one, other, between]} biases={["b1", "b2", "bv"]} />
      <KernelFigure name="convolith-fold" shown={[between, third, whole]} biases={["bv", "b3", "b"]} actions={playback} />
    </>
  );
}

interface KernelFigureProps {
  readonly name: string;
  readonly shown: readonly Shown[];
  readonly biases: readonly string[];
  readonly actions?: VNode;
}

function KernelFigure({ name, shown, biases, actions }: KernelFigureProps) {
  const models = grids.value;
  const own = biases.filter((id) => models.has(id));
  const widths = own.map((id) => biasBlock(models.get(id)!.values.shape[2]!));
  const { side, stacking } = arrangement([...shown.map(([, layer]) => kernelBlock(layer)), ...widths], 2);
  return (
    <FigureFrame name={name} label={`The kernels: ${shown.at(-1)![2]}`} stacking={stacking} side={side} actions={actions}>
      {shown.map(([id, layer, title, sign], n) => (
        <>
          {n > 0 && <Sign>{sign === "then" ? <small>then</small> : sign}</Sign>}
          <KernelArray board={foldBoard} model={models.get(id)!} layer={layer} side={side} title={title} />
        </>
      ))}
      {own.map((id) => (
        <ArrayView
          key={id}
          board={foldBoard}
          model={models.get(id)!}
          title={id === "b" ? "Folded bias b" : `Bias ${id.replace("v", "12")}`}
          side={side}
          pageLabel={() => ""}
          pages={[[[0]]]}
        />
      ))}
    </FigureFrame>
  );
}

/** What folding does: where it is exact, why not, and what it costs. */
function Verdict({ found }: { found: FoldArrays }) {
  const { state, folded, difference, before, after } = found;
  const { layer } = folded.block;
  const field = receptiveField(state.arrangement === "row" ? found.blocks.map((own) => own.layer.rows) : [layer.rows]);
  const wrong = difference.data.filter((value) => value !== 0).length;
  const relu = state.relu && state.arrangement === "row";
  const all = difference.data.length;
  return (
    <section class="card" aria-label="What folding does">
      <h2>
        {relu ? "A ReLU does not fold" : folded.exact === "everywhere" ? "Exact everywhere" : "Exact in the interior only"}
      </h2>
      <p>
        {relu
          ? "A ReLU sets negative values to zero, which no kernel can do: the sum of two clipped values is not the clipped sum."
          : folded.reason}{" "}
        Here, {wrong ? `${wrong} of ${counted(all, "output")} ${wrong === 1 ? "is" : "are"} wrong` : `all ${counted(all, "output")} are right`}.
        {!relu && wrong > 0 && " Convolith computes these border pixels with the originals, so that its answer is exact all the same."}
      </p>
      <p>
        {grouped(before)} multiplications for one image become {grouped(after)}
        {after < before ? `: ${short(before / after)} times fewer.` : after > before ? `: ${short(after / before)} times as many; folding does not pay by this count.` : "."}
      </p>
      <p class="note">
        The folded kernel: stride {layer.rows.stride}, padding {layer.rows.before}, dilation {layer.rows.dilation}
        {folded.block.bias ? ", with a bias" : ""}. Either way, an output depends on a field of {field.size} × {field.size}{" "}
        inputs.
      </p>
    </section>
  );
}

/** The outputs of both ways, and their differences. */
function Outputs({ found }: { found: FoldArrays }) {
  const models = grids.value;
  const { side, stacking } = arrangement([found.output, found.expected, found.difference].map(block), 2);
  const shared = { board: foldBoard, side, pageLabel: channelLabel };
  return (
    <FigureFrame
      name="convolith-fold-borders"
      label="Folded, right, and the difference"
      stacking={stacking}
      side={side}
      heading={<h2>Folded, right, and the difference</h2>}
    >
      <ArrayView {...shared} model={models.get("z")!} title="Folded z" note="one convolution" />
      <Sign>−</Sign>
      <ArrayView {...shared} model={models.get("y")!} title="Right y" note={found.state.arrangement === "row" ? "one after the other" : "branches added"} />
      <Sign>=</Sign>
      <ArrayView {...shared} model={models.get("e")!} title="Difference e" note="zero where the fold is right" />
    </FigureFrame>
  );
}

/** What lies between a convolution and the next, and before the first gap the input. */
function Between({ found, gap }: { found: FoldArrays; gap: number }) {
  const models = grids.value;
  const { hidden, missing } = found.gaps[gap - 1]!;
  const [before, after] = [ORDINALS[gap - 1]!, ORDINALS[gap]!];
  const number = gap > 1 ? String(gap) : "";
  const source = gap > 1 ? "the first two, folded," : "the first";
  const { side, stacking } = arrangement([...(gap > 1 ? [] : [found.x]), hidden, missing].map(block), 2);
  const shared = { board: foldBoard, side, pageLabel: channelLabel };
  return (
    <FigureFrame
      name={`convolith-fold-between${number}`}
      label={`Between the ${before} and the ${after} convolution`}
      stacking={stacking}
      side={side}
      heading={
        <>
          <h2>
            Between the {before} and the {after} convolution
          </h2>
          <p class="note">
            The {after} convolution reads h{number} with its padding (dashed). The folded kernel uses what {source} would give
            there instead: g{number} is what it uses, less h{number}. Where it is not zero, the outputs that read it are wrong.
          </p>
        </>
      }
    >
      {gap === 1 && (
        <>
          <ArrayView {...shared} model={models.get("x")!} title="Input x" note="with the padding of the folded kernel" />
          <Sign>→</Sign>
        </>
      )}
      <ArrayView {...shared} model={models.get(`h${number}`)!} title={`Between h${number}`} note={found.state.relu ? "after the ReLU" : `output of the ${before}`} />
      <Sign>↔</Sign>
      <ArrayView {...shared} model={models.get(`g${number}`)!} title={`Missing g${number}`} note={`used by the fold, less h${number}`} />
    </FigureFrame>
  );
}

/** The converse: the folded kernel as a column times a row. */
function Factoring({ found }: { found: FoldArrays }) {
  const models = grids.value;
  const { kernel, factors } = factored.value!;
  const [height, width] = kernel.shape as [number, number];
  const [outs, ins] = found.folded.block.kernel.shape as [number, number];
  const one = (rows: number, columns: number) => ({ rows: 1, columns: 1, height: rows, width: columns, fixed: true });
  const { side, stacking } = arrangement([one(height, width), one(height, 1), one(1, width), one(height, width)], 2);
  const shared = { board: foldBoard, side, pageLabel: () => "one page", pages: [[[]]] };
  const pages = Array.from({ length: outs * ins }, (_, n) => [String(n), `in ${n % ins}, out ${Math.floor(n / ins)}`] as const);
  const norm = Math.hypot(...factors.singularValues);
  return (
    <FigureFrame
      name="convolith-factors"
      label="A kernel that factors"
      stacking={stacking}
      side={side}
      heading={
        <>
          <h2>The converse: does the kernel factor?</h2>
          {pages.length > 1 && (
            <Selection
              label="Page"
              options={pages}
              value={String(shownPage.value[0] * ins + shownPage.value[1])}
              onChange={(value) => (page.value = [Math.floor(Number(value) / ins), Number(value) % ins])}
            />
          )}
          <p class="note">
            {factors.exact
              ? `Yes: it is a column times a row, so that ${height} × ${width} = ${height * width} products per output become ${height} + ${width} = ${height + width}.`
              : `Not exactly: the nearest column times a row misses ${short((100 * factors.error) / norm)}% of it.`}{" "}
            Singular values: {factors.singularValues.map((value) => short(value > 1e-12 * norm ? value : 0)).join(", ")}.
          </p>
        </>
      }
    >
      <ArrayView {...shared} model={models.get("f")!} title="Kernel" />
      <Sign>{factors.exact ? "=" : "≈"}</Sign>
      <ArrayView {...shared} model={models.get("c")!} title="Column" />
      <Sign>·</Sign>
      <ArrayView {...shared} model={models.get("r")!} title="Row" />
      <Sign>=</Sign>
      <ArrayView {...shared} model={models.get("p")!} title="Product" />
    </FigureFrame>
  );
}
