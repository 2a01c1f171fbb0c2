/** The layer as a product of two matrices: the kernel, and the windows of x as columns. */

import { computed, signal } from "@preact/signals";
import { kernelChannels, matrices } from "../../core";
import type { Cell } from "../../state";
import type { Board, Explanation, GridModel, Lit, Mark } from "../../parts/board";
import { panelKey } from "../../parts/board";
import { ArrayView, Sign } from "../../parts/figure";
import { type Arrays, arrays, elementName } from "./layer_arrays";

/** Whether the product is shown; until somebody chooses, it is for 1x1 kernels, which are nothing else. */
const opened = signal<boolean | null>(null);
/** Most columns that are drawn at a time: those around the output that is pointed at. */
const COLUMNS = 24;

const product = computed(() => {
  const found = arrays.value;
  return found && matrices(found.layer, found.x, found.k);
});

export function MatrixProduct({ found, board }: { found: Arrays; board: Board }) {
  const { layer, y } = found;
  const single = layer.rows.kernel * layer.columns.kernel === 1;
  const open = opened.value ?? single;
  return (
    <details
      class="card"
      open={open}
      onToggle={(event) => {
        if (event.currentTarget.open !== open) opened.value = event.currentTarget.open;
      }}
    >
      <summary>{single ? "A 1×1 kernel is a matrix product" : "The same as a product of two matrices"}</summary>
      {open && (
        <>
          <p>
            {single
              ? `Each pixel's ${layer.inChannels} channels are one column; the kernel is a matrix of ${layer.outChannels} × ${layer.inChannels}, which is applied to every column.`
              : `Each column holds the ${layer.inChannels * layer.rows.kernel * layer.columns.kernel} inputs that one output reads, and each row of the kernel's matrix makes one output channel.`}
            {layer.groups > 1 && " Between channels of different groups, the kernel’s matrix is zero."}
            {found.bias && " The bias is added afterwards."}
          </p>
          <Matrices found={found} board={board} pixels={y.shape[1]! * y.shape[2]!} />
        </>
      )}
    </details>
  );
}

function Matrices({ found, board, pixels }: { found: Arrays; board: Board; pixels: number }) {
  const { layer, y } = found;
  const { kernel, windows } = product.value!;
  const width = y.shape[2]!;
  const taps = layer.rows.kernel * layer.columns.kernel;
  const explanation = board.explanation.value;
  const output = explanation?.cell.grid === "y" ? explanation.cell.at : null;
  const pixel = output ? output[1]! * width + output[2]! : 0;
  const shown = Math.min(pixels, COLUMNS);
  const start = Math.min(Math.max(pixel - (COLUMNS >> 1), 0), pixels - shown);
  const outputAt = ([out, column]: readonly number[]): Cell => {
    const place = start + column!;
    return { grid: "y", at: [out!, Math.floor(place / width), place % width] };
  };
  const kernelAt = ([out, inner]: readonly number[]): Cell | null => {
    const channels = kernelChannels(layer, out!, Math.floor(inner! / taps));
    const tap = inner! % taps;
    return channels && { grid: "k", at: [...channels, Math.floor(tap / layer.columns.kernel), tap % layer.columns.kernel] };
  };
  const nameAt = (cell: Cell | null): string => (cell ? elementName(cell.grid, cell.at.slice(0), layer.axes) : "no weight");
  const columnsOf = (values: typeof windows) => ({
    shape: [values.shape[0]!, shown],
    data: Float64Array.from({ length: values.shape[0]! * shown }, (_, place) => {
      return values.data[Math.floor(place / shown) * pixels + start + (place % shown)]!;
    }),
  });
  const models: GridModel[] = [
    { id: "K", values: kernel, axes: 2, nameOf: (at) => nameAt(kernelAt(at)) },
    { id: "W", values: columnsOf(windows), axes: 2, nameOf: (at) => `input ${at[0]} of output pixel ${start + at[1]!}` },
    { id: "Y", values: columnsOf(linear(found)), axes: 2, nameOf: (at) => nameAt(outputAt(at)) },
  ];
  const inner = windows.shape[0]!;
  const lit = computed(() => marks(board.explanation.value, found, start, shown, inner));
  const shownOf = (cell: Cell): Cell | null =>
    cell.grid === "Y" ? outputAt(cell.at) : cell.grid === "K" ? kernelAt(cell.at) : outputAt([output?.[0] ?? 0, cell.at[1]!]);
  const inside: Board = {
    ...board,
    grids: computed(() => new Map(models.map((model) => [model.id, model]))),
    lit,
    pointAt: (cell, moved) => {
      const real = shownOf(cell);
      if (real) board.pointAt(real, moved);
    },
    togglePin: (cell) => {
      const real = shownOf(cell);
      if (real) board.togglePin(real);
    },
  };
  const side = Math.max(16, Math.min(34, Math.floor(560 / (shown + kernel.shape[1]!))));
  const title = (name: string, values: { shape: readonly number[] }): string => `${name}, ${values.shape.join(" × ")}`;
  return (
    <>
      {shown < pixels && (
        <p class="note">
          Columns {start + 1} to {start + shown} of {pixels}; those around the output that is pointed at.
        </p>
      )}
      <div class="arrays">
        {[title("Kernel", kernel), title(taps === 1 ? "x" : "Windows of x", windows), title("Output", { shape: [layer.outChannels, pixels] })].map((text, n) => (
          <>
            {n > 0 && <Sign>{n === 1 ? "·" : "="}</Sign>}
            <ArrayView key={text} board={inside} model={models[n]!} title={text} side={side} pageLabel={() => "matrix"} pages={[[[]]]} />
          </>
        ))}
      </div>
    </>
  );
}

/** Return the output without its bias, as a matrix. */
function linear({ y, bias }: Arrays) {
  const pixels = y.shape[1]! * y.shape[2]!;
  const data = y.data.map((value, place) => value - (bias?.data[Math.floor(place / pixels)] ?? 0));
  return { shape: [y.shape[0]!, pixels], data };
}

/** Return the marks of the row and the column that make the output that is explained. */
function marks(
  explanation: Explanation | null,
  { y }: Arrays,
  start: number,
  shown: number,
  inner: number,
): ReadonlyMap<string, readonly Lit[]> {
  if (explanation?.cell.grid !== "y") return new Map();
  const [out, row, column] = explanation.cell.at as [number, number, number];
  const place = row * y.shape[2]! + column - start;
  if (place < 0 || place >= shown) return new Map();
  const all = (at: (n: number) => number[]): Lit[] =>
    Array.from({ length: inner }, (_, n) => ({ at: at(n), mark: "lit" as Mark }));
  return new Map<string, readonly Lit[]>([
    [panelKey("K", []), all((n) => [out, n])],
    [panelKey("W", []), all((n) => [n, place])],
    [panelKey("Y", []), [{ at: [out, place], mark: "active" }]],
  ]);
}
