/** The kernels of a fit side by side: the known one, the closed form with its errors, the descent; and a row of them as curves. */

import { computed } from "@preact/signals";
import { largestMagnitude, type Tensor, tensor, valueAt, zeros } from "../../core";
import type { Cell } from "../../state";
import { active, pointAt } from "../../state/store";
import type { Board, Explanation, GridModel } from "../../parts/board";
import { ArrayView, FigureFrame } from "../../parts/figure";
import { long, short } from "../../parts/numbers";
import { arrangement, block } from "../layer/layer_parts";
import { makeBoard } from "../make_board";
import { knownKernel, run } from "./fit_jobs";
import { isUnidentified } from "./fit_run";

type Rows = readonly (readonly (number | null)[])[];

/** Return a kernel as an array of one page, or null if it has numbers that are not finite. */
function pageOf(rows: Rows | null | undefined): Tensor | null {
  if (!rows?.length || rows.some((row) => row.some((value) => value === null))) return null;
  return tensor([1, rows.length, rows[0]!.length], rows.flat() as number[]);
}

/** Return a kernel in the middle of zeros, as it is among kernels of another size; of a smaller size, the kernel itself. */
function centred(kernel: Tensor | null, like: Tensor | null): Tensor | null {
  const [, rows = 0, columns = 0] = kernel?.shape ?? [];
  const [, height = 0, width = 0] = like?.shape ?? [];
  if (!kernel || height < rows || width < columns) return kernel;
  const [top, left] = [((height - 1) >> 1) - ((rows - 1) >> 1), ((width - 1) >> 1) - ((columns - 1) >> 1)];
  const result = zeros([1, height, width]);
  kernel.data.forEach((value, place) => {
    result.data[(top + Math.floor(place / columns)) * width + left + (place % columns)] = value;
  });
  return result;
}

/** The known kernel, as large as the one that was fitted. */
const known = computed(() => {
  const found = run.value;
  return centred(pageOf(knownKernel.value), pageOf(found?.closed?.kernel ?? found?.kernel));
});

/** The kernels that there are, by the identifier of their grid: known, closed form, its standard errors, descent. */
const kernels = computed((): ReadonlyMap<string, Tensor> => {
  const found = run.value;
  const pages: [string, Tensor | null][] = [
    ["u", known.value],
    ["c", pageOf(found?.closed?.kernel)],
    ["s", pageOf(found?.closed?.stderr)],
    ["d", pageOf(found?.kernel)],
  ];
  return new Map(pages.filter((entry): entry is [string, Tensor] => entry[1] !== null));
});

const NAMES = { u: "known", c: "closed form", s: "standard error", d: "descent" } as const;
type Name = keyof typeof NAMES;
const TITLES = { u: "Known kernel", c: "Closed form", s: "Its standard errors", d: "Descent" } as const;

const grids = computed((): ReadonlyMap<string, GridModel> => {
  const models = [...kernels.value].map(([id, values]): GridModel => ({
    id,
    values,
    axes: 2,
    nameOf: ([, row, column]) => `${NAMES[id as Name]}[${row},${column}]`,
    write: writer(largestMagnitude(values)),
  }));
  return new Map(models.map((model) => [model.id, model]));
});

/** Return a function that writes values with the decimals that the largest of them needs; what is zero with these is 0. */
function writer(largest: number): (value: number) => string {
  if (!(largest >= 1e-2 && largest < 1e4)) return short;
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(largest)));
  return (value) => (Number(value.toFixed(decimals)) ? value.toFixed(decimals).replace("-", "−") : "0");
}

/** Element in the middle of the first kernel that there is. */
function middle(): Cell {
  const [id, { shape }] = [...kernels.value][0]!;
  return { grid: id, at: [0, shape[1]! >> 1, shape[2]! >> 1] };
}

/** Return the cells at the place of a cell in the other kernels of its size. */
function counterparts(cell: Cell): Cell[] {
  const own = kernels.value.get(cell.grid)!;
  return [...kernels.value].flatMap(([id, { shape }]) => (id !== cell.grid && shape.join() === own.shape.join() ? [{ grid: id, at: cell.at }] : []));
}

function explain(cell: Cell): Explanation {
  return { cell, about: "", lines: [{ label: "", terms: [{ factors: counterparts(cell) }] }], isSum: false };
}

const board: Board = { ...makeBoard(grids, middle, explain), togglePin: (cell) => pointAt(cell), unpin: () => undefined };

export function Kernels() {
  const found = kernels.value;
  if (!found.has("c") && !found.has("d")) return null;
  const { side, stacking } = arrangement([...found.values()].slice(0, 2).map(block), 2); // two in a line, the others below
  const noErrors = run.value?.closed && !found.has("s");
  return (
    <FigureFrame
      name="convolith-fit"
      label="The kernels"
      stacking={stacking}
      side={side}
      heading={
        <>
          <h2>The kernels</h2>
          <p class="note">
            Green is above zero, orange below. Point at an element, or walk with the arrow keys, to compare it.
            {noErrors && " Standard errors are not known here: the closed form gives none for these settings or so few pixels."}
          </p>
        </>
      }
    >
      {[...found.keys()].map((id) => (
        <ArrayView
          key={id}
          board={board}
          model={grids.value.get(id)!}
          title={TITLES[id as Name]}
          side={side}
          pageLabel={() => "all elements"}
        />
      ))}
    </FigureFrame>
  );
}

/** The element that is pointed at, in all kernels, and its row as curves. */
export function Profile() {
  const found = kernels.value;
  if (!found.has("c") && !found.has("d")) return null;
  const pointed = active.value && grids.value.has(active.value.grid) && active.value.at.length === 3 ? active.value : middle();
  const shape = found.get(pointed.grid)!.shape;
  const [, row, column] = pointed.at as [number, number, number];
  const of = (id: Name): number | null => {
    const values = found.get(id);
    return values && values.shape.join() === shape.join() && row < shape[1]! && column < shape[2]! ? valueAt(values, pointed.at) : null;
  };
  const [u, c, s, d] = [of("u"), of("c"), of("s"), of("d")];
  return (
    <section class="card profile" aria-label="One row of the kernels">
      <h2>
        Row {row}, with the element in column {column}
      </h2>
      <p class="values">
        {u !== null && <span>known {long(u)}</span>}
        {c !== null && (
          <span>
            closed form {long(c)}
            {s !== null && <> ± {short(s)}</>}
          </span>
        )}
        {d !== null && <span>descent {long(d)}</span>}
      </p>
      <Curves row={row} column={column} shape={shape} />
      <p class="note">
        {s === null
          ? ""
          : run.value?.closed?.warnings.some(isUnidentified)
            ? "The standard errors say nothing about what the pictures leave open: they are those of the smallest kernel."
            : "Bars: two standard errors of the closed form up and down; where they are too short to be seen, the data determine the value well."}
      </p>
    </section>
  );
}

const WIDTH = 640;
const HEIGHT = 200;
const EDGE = { left: 54, right: 12, top: 10, bottom: 26 };

/** A row of every kernel: the closed form with its errors, the known kernel as a line, the descent as dots. */
function Curves({ row, column, shape }: { row: number; column: number; shape: readonly number[] }) {
  const rows = new Map(
    [...kernels.value].flatMap(([id, values]) => {
      const width = shape[2]!;
      return values.shape.join() === shape.join() ? [[id as Name, Array.from(values.data.subarray(row * width, (row + 1) * width))] as const] : [];
    }),
  );
  const errors = rows.get("s")?.map((value) => 2 * value);
  const drawn = (["u", "c", "d"] as const).flatMap((id) => (rows.has(id) ? [[id, rows.get(id)!] as const] : []));
  const all = drawn.flatMap(([id, values]) => values.flatMap((value, n) => (id === "c" && errors ? [value - errors[n]!, value + errors[n]!] : [value])));
  const least = Math.min(0, ...all);
  const most = Math.max(0, ...all);
  const span = most - least || 1;
  const x = (n: number): number => EDGE.left + ((n + 0.5) * (WIDTH - EDGE.left - EDGE.right)) / shape[2]!;
  const y = (value: number): number => HEIGHT - EDGE.bottom - ((value - least) / span) * (HEIGHT - EDGE.top - EDGE.bottom);
  const summary = drawn.map(([id, values]) => `${NAMES[id]} ${values.map(short).join(", ")}`).join("; ");
  const step = Math.ceil(shape[2]! / 16);
  const aside = rows.has("d") ? 5 : 0;
  return (
    <>
      <ul class="key" aria-hidden="true">
        {drawn.map(([id]) => (
          <li key={id} class={`curve-${id}`}>
            <span /> {NAMES[id]}
          </li>
        ))}
      </ul>
      <svg class="curves" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`Row ${row}: ${summary}`}>
        <rect class="here" x={x(column - 0.5)} y={EDGE.top} width={x(1) - x(0)} height={HEIGHT - EDGE.top - EDGE.bottom} />
        <line class="zero" x1={EDGE.left} x2={WIDTH - EDGE.right} y1={y(0)} y2={y(0)} />
        {[least, 0, most].filter((value, place, own) => own.indexOf(value) === place).map((value) => (
          <text key={value} class="end" x={EDGE.left - 6} y={y(value) + 4}>
            {short(value)}
          </text>
        ))}
        {Array.from({ length: shape[2]! }, (_, n) => n % step === 0 && (
          <text key={n} class="middle" x={x(n)} y={HEIGHT - 8}>
            {n}
          </text>
        ))}
        {drawn.map(([id, values]) => (
          <g key={id} class={`curve-${id}`}>
            {id === "u" && <path d={values.map((value, n) => `${n ? "L" : "M"}${x(n)} ${y(value)}`).join("")} />}
            {id === "c" &&
              errors?.map((error, n) => (
                <path key={n} class="bar" d={errorBar(x(n) - aside, y(values[n]! - error), y(values[n]! + error))} />
              ))}
            {id !== "u" && values.map((value, n) => <circle key={n} cx={x(n) + (id === "d" ? aside : -aside)} cy={y(value)} r="4" />)}
          </g>
        ))}
      </svg>
    </>
  );
}

const errorBar = (x: number, low: number, high: number): string => `M${x} ${low}V${high}M${x - 4} ${low}h8M${x - 4} ${high}h8`;

/** Return the largest difference of a kernel from the known one or from another, of one size, or null. */
export function largestDifference(first: Rows, second: Rows | "known"): number | null {
  const [a, b] = [pageOf(first), second === "known" ? known.value : pageOf(second)];
  if (!a || !b || a.shape.join() !== b.shape.join()) return null;
  return largestMagnitude({ shape: a.shape, data: a.data.map((value, place) => value - b.data[place]!) });
}
