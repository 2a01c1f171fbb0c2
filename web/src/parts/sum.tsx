/** The sum of the cell that is pointed at, written out in numbers and in names. */

import { signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { valueAt } from "../core";
import type { Cell } from "../state";
import { pointedTerm, state } from "../state/store";
import type { Board, Explanation, Line, Term } from "./board";
import { Choice } from "./controls";
import { factorText, long } from "./numbers";

type Writing = "both" | "numbers" | "names";
const writing = signal<Writing>("both");

/** Terms that are written at once; the others, which are out of sight, follow when the pointer rests. */
const FIRST_TERMS = 28;
const REST_MILLISECONDS = 120;

export function Sum({ board }: { board: Board }) {
  const explanation = board.explanation.value;
  const whole = useSignal(explanation);
  const limit = whole.value === explanation ? Infinity : FIRST_TERMS;
  useEffect(() => {
    const timer = setTimeout(() => (whole.value = explanation), REST_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [explanation]);
  if (!explanation) return <section class="sum card" aria-label="The sum" />;
  const grids = board.grids.value;
  const valueOf = (cell: Cell): number => valueAt(grids.get(cell.grid)!.values, cell.at);
  const nameOf = (cell: Cell): string => grids.get(cell.grid)!.nameOf(cell.at);
  let first = 0;
  const lines = explanation.lines.map((line) => {
    const start = first;
    first += line.terms.length;
    const { isSum } = explanation;
    return <SumLine key={line.label} {...{ line, start, isSum, valueOf, nameOf }} written={limit - start} />;
  });
  const pinned = state.value.pin !== null;
  const onPointer = (event: PointerEvent): void => {
    const term = (event.target as Element).closest("[data-term]")?.getAttribute("data-term");
    pointedTerm.value = term === null || term === undefined ? null : Number(term);
  };
  return (
    <section
      class={`sum card ${writing.value}`}
      aria-label="The sum"
      onPointerOver={onPointer}
      onPointerLeave={() => (pointedTerm.value = null)}
    >
      <div class="heading">
        <h2>
          <span class="name">{nameOf(explanation.cell)}</span> = <strong>{long(valueOf(explanation.cell))}</strong>
        </h2>
        {pinned ? (
          <button type="button" class="quiet" onClick={board.unpin}>
            Unpin
          </button>
        ) : (
          <button type="button" class="quiet" onClick={() => board.togglePin(explanation.cell)}>
            Pin
          </button>
        )}
        <Choice
          label="Written in"
          options={[
            ["both", "both"],
            ["numbers", "numbers"],
            ["names", "names"],
          ]}
          value={writing.value}
          onChange={(value) => (writing.value = value)}
        />
      </div>
      <div class="scroller" tabIndex={0} role="group" aria-label="All products">
        <p class="about">{explanation.about}</p>
        <ValueField board={board} explanation={explanation} />
        {lines}
        {explanation.isSum && <Total explanation={explanation} {...{ valueOf, nameOf }} />}
      </div>
    </section>
  );
}

interface Reading {
  readonly valueOf: (cell: Cell) => number;
  readonly nameOf: (cell: Cell) => string;
}

function product(term: Term, valueOf: Reading["valueOf"]): number {
  return term.factors.reduce((result, cell) => result * valueOf(cell), 1);
}

function total(line: Line, valueOf: Reading["valueOf"]): number {
  return line.terms.reduce((sum, term) => sum + product(term, valueOf), 0);
}

/** Pixels of a character in numbers and in names, at most, so that all terms are equally wide. */
const CHARACTER = { numbers: 10.2, names: 7.4 };

interface SumLineProps extends Reading {
  readonly line: Line;
  readonly start: number;
  readonly isSum: boolean;
  /** Number of terms to write. */
  readonly written: number;
}

function SumLine({ line, start, isSum, written, valueOf, nameOf }: SumLineProps) {
  const texts = line.terms.slice(0, Math.max(written, 0)).map((term) => ({
    numbers: term.factors.map((cell) => factorText(valueOf(cell))).join(" × "),
    names: term.factors.map(nameOf).join(" · ") + (term.into ? ` → ${nameOf(term.into)}` : ""),
  }));
  const width = (key: "numbers" | "names"): number =>
    CHARACTER[key] * Math.max(0, ...texts.map((text) => text[key].length)) + 26;
  const mode = writing.value;
  const wide = Math.max(mode === "names" ? 0 : width("numbers"), mode === "numbers" && isSum ? 0 : width("names"));
  return (
    <div class="line">
      <span class="label">
        {line.label}
        {isSum && <span class="subtotal">= {long(total(line, valueOf))}</span>}
      </span>
      <span class={isSum ? "terms added" : "terms"} style={{ "--term": `${Math.ceil(wide)}px` }}>
        {texts.map((text, position) => (
          <span class="term" data-term={start + position} key={position}>
            <span class="in-numbers">{text.numbers}</span>
            <span class="in-names">{text.names}</span>
          </span>
        ))}
      </span>
    </div>
  );
}

function Total({ explanation, valueOf, nameOf }: Reading & { explanation: Explanation }) {
  const { lines, added } = explanation;
  if (lines.length < 2 && !added) return null;
  const parts = lines.map((line) => factorText(total(line, valueOf)));
  if (added) parts.push(factorText(valueOf(added)));
  return (
    <p class="total">
      <span class="label">all together</span>
      <span>
        {parts.join(" + ")} = <strong>{long(valueOf(explanation.cell))}</strong>
        {added && <span class="note"> (the last number is {nameOf(added)})</span>}
      </span>
    </p>
  );
}

/** A field for a new value of the explained cell, if it is an input. */
function ValueField({ board, explanation }: { board: Board; explanation: Explanation }) {
  const field = useRef<HTMLInputElement>(null);
  const { cell } = explanation;
  const model = board.grids.value.get(cell.grid)!;
  const value = valueAt(model.values, cell.at);
  // Before the next key is pressed: later, what was typed meanwhile would be lost.
  useLayoutEffect(() => {
    if (field.current) field.current.value = String(value);
  }, [cell.grid, cell.at.join("."), value]);
  if (!model.edit || !(model.takes?.(cell.at) ?? true)) return null;
  const store = (): void => {
    const entered = field.current!.value.trim().replace("−", "-");
    const number = Number(entered);
    const valid = entered !== "" && Number.isFinite(number) && Math.abs(number) <= 1e100;
    field.current!.setCustomValidity(valid ? "" : "Enter a number, such as 3 or -0.5");
    if (valid) model.edit!(cell.at, number);
    else field.current!.reportValidity();
  };
  const back = (): void => {
    const [row, column] = cell.at.slice(-2);
    const leading = cell.at.slice(0, -2).join(",");
    document
      .querySelector<SVGGElement>(`[data-panel="${cell.grid}.${leading}"] [data-place="${row},${column}"]`)
      ?.focus();
  };
  return (
    <p class="value-field">
      <label for="cell-value">New value of {model.nameOf(cell.at)}</label>
      <input
        id="cell-value"
        ref={field}
        inputMode="decimal"
        autocomplete="off"
        onChange={store}
        onKeyDown={(event) => {
          if (event.key === "Enter") {
            store();
            back();
          } else if (event.key === "Escape") {
            field.current!.value = String(value);
            back();
          }
        }}
      />
    </p>
  );
}
