/** The view "Fold": two convolutions as one, the pixels where that is wrong, and kernels that come apart. */

import { computed, signal } from "@preact/signals";
import { type Fill, filled, indicesOf, inputShape, kernelShape, nested, offset, receptiveField, replaced, type Tensor } from "../../core";
import { type BlockState, type Cell, foldLayers } from "../../state";
import { foldState, setFold } from "../../state/store";
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
function editBlock(place: 0 | 1, key: "k" | "bias", shape: readonly number[]) {
  return (at: readonly number[], value: number): void => {
    const { blocks } = foldState.value;
    const values = filled(blocks[place][key] as Fill, shape);
    const own = key === "bias" ? [at[2]!] : at;
    const changed: BlockState = { ...blocks[place], [key]: { given: replaced(values, offset(shape, own), value) } };
    setFold({ blocks: place === 0 ? [changed, blocks[1]] : [blocks[0], changed] });
  };
}

function editInput(at: readonly number[], value: number): void {
  const [layer] = foldLayers(foldState.value);
  const shape = inputShape(layer);
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
    if (n === 2) {
      models.push(plain("i", "identity", kernel));
      return;
    }
    const place = n as 0 | 1;
    models.push({ ...plain(`w${n + 1}`, `k${n + 1}`, kernel), edit: editBlock(place, "k", kernelShape(layer)) });
    if (own) models.push({ ...bias(`b${n + 1}`, `b${n + 1}`, own), edit: editBlock(place, "bias", own.shape) });
  });
  if (folded.block.bias) models.push(bias("b", "b", folded.block.bias));
  if (found.hidden && found.missing) {
    const second = blocks[1]!.layer;
    const nameOf = (symbol: string) => (at: readonly number[]): string => {
      const source = isPadding(second, at) ? null : sourceOf(second, at);
      return source ? elementName(symbol, source, 2) : symbol === "h" ? "padding" : `beyond[${at.join(",")}]`;
    };
    const padding = (at: readonly number[]): boolean => isPadding(second, at);
    models.push({ ...plain("h", "h", found.hidden), nameOf: nameOf("h"), isPadding: padding });
    models.push({ ...plain("g", "g", found.missing), nameOf: nameOf("g"), isPadding: padding });
  }
  return new Map(models.map((model) => [model.id, model]));
});

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
          Two convolutions without anything between them are one, with a larger kernel. <strong>Point at an element of
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
      {found.hidden && <Between found={found} />}
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

/** The kernels, and the one that they become. */
function Kernels({ found }: { found: FoldArrays }) {
  const { blocks, folded, state } = found;
  const models = grids.value;
  const layers = [...blocks.map((own) => own.layer), folded.block.layer];
  const row = state.arrangement === "row";
  const biases = (["b1", "b2", "b"] as const).filter((id) => models.has(id));
  const widths = biases.map((id) => biasBlock(models.get(id)!.values.shape[2]!));
  const { side, stacking } = arrangement([...layers.map(kernelBlock), ...widths], 2);
  const titles = ["First kernel k1", "Second kernel k2", "The input itself"];
  return (
    <FigureFrame
      name="convolith-fold"
      label="The kernels and the folded kernel"
      stacking={stacking}
      side={side}
      actions={<Playback board={foldBoard} cells={kernelCells.value} noun="kernel element" />}
    >
      {blocks.map(({ layer }, n) => (
        <>
          {n > 0 && <Sign>{row ? <small>then</small> : "+"}</Sign>}
          <KernelArray board={foldBoard} model={models.get(n === 2 ? "i" : `w${n + 1}`)!} layer={layer} side={side} title={titles[n]!} />
        </>
      ))}
      <Sign>=</Sign>
      <KernelArray board={foldBoard} model={models.get("w")!} layer={folded.block.layer} side={side} title="Folded kernel k" />
      {biases.map((id) => (
        <ArrayView
          key={id}
          board={foldBoard}
          model={models.get(id)!}
          title={id === "b" ? "Folded bias b" : `Bias ${id}`}
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
        {!relu && wrong > 0 && " Convolith computes these border pixels with the two originals, so that its answer is exact all the same."}
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

/** The input and what lies between the two convolutions. */
function Between({ found }: { found: FoldArrays }) {
  const models = grids.value;
  const { side, stacking } = arrangement([found.x, found.hidden!, found.missing!].map(block), 2);
  const shared = { board: foldBoard, side, pageLabel: channelLabel };
  return (
    <FigureFrame
      name="convolith-fold-between"
      label="Between the two convolutions"
      stacking={stacking}
      side={side}
      heading={
        <>
          <h2>Between the two convolutions</h2>
          <p class="note">
            The second convolution reads h with its padding (dashed). The folded kernel uses what the first would give
            there instead: g is what it uses, less h. Where g is not zero, the outputs that read it are wrong.
          </p>
        </>
      }
    >
      <ArrayView {...shared} model={models.get("x")!} title="Input x" note="with the padding of the folded kernel" />
      <Sign>→</Sign>
      <ArrayView {...shared} model={models.get("h")!} title="Between h" note={found.state.relu ? "after the ReLU" : "output of the first"} />
      <Sign>↔</Sign>
      <ArrayView {...shared} model={models.get("g")!} title="Missing g" note="used by the fold, less h" />
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
