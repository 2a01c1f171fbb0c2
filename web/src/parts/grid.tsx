/** One page of an array as a grid of cells: pointed at, walked through by arrow keys, pinned and edited. */

import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { largestMagnitude, valueAt } from "../core";
import type { Cell } from "../state";
import { type Board, type GridModel, type Lit, type Mark, panelKey } from "./board";
import { cellByKey } from "./keys";
import { short } from "./numbers";

const UNIT = 40;
const MARGIN = 3;
/** Side of a cell in pixels from which on its number is written. */
export const READABLE = 20;

interface Props {
  readonly board: Board;
  readonly model: GridModel;
  /** Indices before rows and columns. */
  readonly leading: readonly number[];
  readonly label: string;
  /** Side of a cell in pixels, where the window is wide enough. */
  readonly side: number;
}

export function Grid({ board, model, leading, label, side }: Props) {
  const svg = useRef<SVGSVGElement>(null);
  const [height, width] = model.values.shape.slice(-2) as [number, number];
  const written = side >= READABLE;
  const cells = useMemo(() => drawCells(model, leading, written), [model, written, ...leading]);
  useLayoutEffect(() => keepOneTabStop(svg.current!), [height, width]);

  const cellOf = (target: EventTarget | null): Cell | null => {
    const place = (target as Element | null)?.closest("[data-place]")?.getAttribute("data-place");
    if (!place) return null;
    const [row, column] = place.split(",").map(Number) as [number, number];
    return { grid: model.id, at: [...leading, row, column] };
  };
  const focus = (row: number, column: number): void => {
    svg.current!.querySelector<SVGGElement>(`[data-place="${row},${column}"]`)?.focus();
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    const cell = cellOf(event.target);
    if (!cell || event.altKey || event.metaKey) return;
    const next = cellByKey(event, cell.at.slice(-2) as [number, number], [0, height - 1], [0, width - 1]);
    if (next) focus(...next);
    else if (!pressed(event, cell)) return;
    event.preventDefault();
  };
  /** Return whether a key that leads nowhere does something else. */
  const pressed = ({ key, ctrlKey }: KeyboardEvent, cell: Cell): boolean => {
    switch (key) {
      case "Enter":
      case " ":
        board.togglePin(cell);
        return true;
      case "Escape":
        board.unpin();
        return true;
      default:
        return !ctrlKey && /^([-\d.]|F2)$/.test(key) && startEdit(key === "F2" ? "" : key);
    }
  };

  const box = `${-MARGIN} ${-MARGIN} ${width * UNIT + 2 * MARGIN} ${height * UNIT + 2 * MARGIN}`;
  const across = width * side + 2 * MARGIN;
  return (
    <div
      class="frame"
      // Not on the drawing: Chromium lets the tab key stop at drawings that listen to the focus.
      onFocusIn={(event) => {
        const cell = cellOf(event.target);
        if (!cell) return;
        const target = (event.target as Element).closest<SVGGElement>("[data-place]")!;
        for (const other of svg.current!.querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", "-1");
        target.setAttribute("tabindex", "0");
        if (target.matches(":focus-visible")) board.pointAt(cell, true);
      }}
    >
      <svg
        ref={svg}
        class="grid"
        role="grid"
        data-panel={`${model.id}.${leading.join(",")}`}
        aria-label={label}
        width={across}
        viewBox={box}
        onPointerOver={(event) => {
          const cell = cellOf(event.target);
          if (cell && event.pointerType !== "touch") board.pointAt(cell);
        }}
        onClick={(event) => {
          const cell = cellOf(event.target);
          if (cell) board.togglePin(cell);
        }}
        onKeyDown={onKeyDown}
      >
        {cells}
      </svg>
      <div class="above">
        <svg class="marks" aria-hidden="true" width={across} viewBox={box}>
          <Marks board={board} panel={panelKey(model.id, leading)} detailed={side >= 36} />
        </svg>
      </div>
    </div>
  );
}

function drawCells(model: GridModel, leading: readonly number[], written: boolean) {
  const [height, width] = model.values.shape.slice(-2) as [number, number];
  const largest = largestMagnitude(model.values) || 1;
  return Array.from({ length: height }, (_, row) => (
    <g role="row" key={row}>
      {Array.from({ length: width }, (__, column) => {
        const at = [...leading, row, column];
        const value = valueAt(model.values, at);
        const padding = model.isPadding?.(at) ?? false;
        const text = (model.write ?? short)(value);
        return (
          <g
            key={column}
            role="gridcell"
            class={padding ? "cell padding" : "cell"}
            data-place={`${row},${column}`}
            tabindex={-1}
            aria-label={`${model.nameOf(at)} = ${short(value)}`}
          >
            <rect
              x={column * UNIT}
              y={row * UNIT}
              width={UNIT}
              height={UNIT}
              class={value < 0 ? "negative" : "positive"}
              fill-opacity={((0.55 * Math.abs(value)) / largest).toFixed(3)}
            />
            {written && (
              <text x={column * UNIT + UNIT / 2} y={row * UNIT + UNIT / 2} font-size={fontSize(text)}>
                {text}
              </text>
            )}
          </g>
        );
      })}
    </g>
  ));
}

function fontSize(text: string): number {
  return text.length <= 2 ? 17 : text.length === 3 ? 15 : text.length === 4 ? 13 : text.length === 5 ? 11 : 9;
}

const MARKS: readonly Mark[] = ["lit", "term", "active"];

/**
 * The marked cells of a panel, as one outline for each kind of mark.
 *
 * They are in a drawing of their own, so that the panel's cells are not painted again.
 */
function Marks({ board, panel, detailed }: { board: Board; panel: string; detailed: boolean }) {
  const lit = board.lit.value.get(panel) ?? [];
  return (
    <>
      {MARKS.map((mark) => (
        <path key={mark} class={mark} d={outline(lit.filter((cell) => cell.mark === mark))} />
      ))}
      {detailed && lit.map((cell, position) => <Factor key={position} cell={cell} />)}
    </>
  );
}

function outline(cells: readonly Lit[]): string {
  const size = UNIT - 3;
  return cells
    .map(({ at }) => `M${at.at(-1)! * UNIT + 1.5} ${at.at(-2)! * UNIT + 1.5}h${size}v${size}h${-size}z`)
    .join("");
}

/** What a marked cell is multiplied by, in its corner. */
function Factor({ cell }: { cell: Lit }) {
  if (cell.factor === undefined) return null;
  return (
    <text class="factor" x={cell.at.at(-1)! * UNIT + UNIT - 4} y={cell.at.at(-2)! * UNIT + UNIT - 7}>
      ×{short(cell.factor)}
    </text>
  );
}

/** Make one cell of a grid, the first if none is, the one that the tab key reaches. */
function keepOneTabStop(grid: SVGSVGElement): void {
  if (!grid.querySelector('[tabindex="0"]')) grid.querySelector("[data-place]")?.setAttribute("tabindex", "0");
}

/** Move the focus to the field that edits the explained cell, and put the first characters there. */
function startEdit(typed: string): boolean {
  const field = document.querySelector<HTMLInputElement>("#cell-value");
  if (!field) return false;
  field.focus();
  if (typed) field.value = typed;
  else field.select();
  return true;
}
