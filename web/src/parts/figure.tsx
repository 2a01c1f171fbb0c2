/** Parts of figures: an array with its pages, the sign between two arrays, and the frame with its actions. */

import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import { largestMagnitude } from "../core";
import type { Board, GridModel } from "./board";
import { saveSvg } from "./export";
import { Grid, READABLE } from "./grid";
import { short } from "./numbers";

interface ArrayProps {
  readonly board: Board;
  readonly model: GridModel;
  readonly title: string;
  readonly note?: string | undefined;
  readonly side: number;
  /** Label of a page of the array, by its leading indices. */
  readonly pageLabel: (leading: readonly number[]) => string;
  /** Pages in rows: null leaves a place empty. By default one page for each channel. */
  readonly pages?: readonly (readonly (readonly number[] | null)[])[];
}

/** An array: its title, one grid for each page, and the scale of its colours. */
export function ArrayView({ board, model, title, note, side, pageLabel, pages }: ArrayProps) {
  const rows = pages ?? Array.from({ length: model.values.shape[0]! }, (_, channel) => [[channel]]);
  const several = rows.length > 1 || rows[0]!.length > 1;
  return (
    <div class="array">
      <h3 data-caption>{title}</h3>
      {note && <p class="note">{note}</p>}
      <div class={pages ? "pages matrix" : "pages"}>
        {rows.map((row, i) => (
          <div class="pages-row" key={i}>
            {row.map((leading, j) =>
              leading ? (
                <figure class="page" key={j}>
                  <Grid board={board} model={model} leading={leading} label={`${title}, ${pageLabel(leading)}`} side={side} />
                  {several && <figcaption data-caption>{pageLabel(leading)}</figcaption>}
                </figure>
              ) : (
                <Blank key={j} model={model} side={side} />
              ),
            )}
          </div>
        ))}
      </div>
      <Scale model={model} />
    </div>
  );
}

/** The place of a page that does not exist: two channels of different groups. */
function Blank({ model, side }: { model: GridModel; side: number }) {
  const [height, width] = model.values.shape.slice(-2) as [number, number];
  return (
    <figure class="page blank">
      <svg class="grid" aria-hidden="true" width={width * side + 6} viewBox={`-3 -3 ${width * 40 + 6} ${height * 40 + 6}`}>
        <rect x="0" y="0" width={width * 40} height={height * 40} class="nothing" />
      </svg>
      <figcaption data-caption>not joined</figcaption>
    </figure>
  );
}

/** The colours of an array's values, from its largest magnitude below zero to that above. */
function Scale({ model }: { model: GridModel }) {
  const largest = largestMagnitude(model.values);
  const negative = model.values.data.some((value) => value < 0);
  if (!largest) return null;
  return (
    <div class="scale" aria-hidden="true">
      {negative && <span>{short(-largest)}</span>}
      <span class={negative ? "bar both" : "bar"} />
      <span>{negative ? short(largest) : `0 to ${short(largest)}`}</span>
    </div>
  );
}

export function Sign({ children }: { children: ComponentChildren }) {
  return (
    <span class="sign" aria-hidden="true" data-caption>
      {children}
    </span>
  );
}

interface FigureProps {
  readonly name: string;
  readonly label: string;
  readonly children: ComponentChildren;
  readonly stacking: "beside" | "rows" | "columns";
  readonly side: number;
  readonly heading?: ComponentChildren;
  readonly actions?: ComponentChildren;
}

export function FigureFrame({ name, label, children, stacking, side, heading, actions }: FigureProps) {
  const body = useRef<HTMLDivElement>(null);
  return (
    <section class="figure card" aria-label={label}>
      {heading && <div class="row heading">{heading}</div>}
      <div class={stacking === "beside" ? "arrays" : `arrays stacked pages-in-${stacking}`} ref={body}>
        {children}
      </div>
      {side < READABLE && (
        <p class="note">Cells this small show colours only: point at one to read its number.</p>
      )}
      <div class="actions">
        {actions}
        <button type="button" class="quiet" onClick={() => saveSvg(body.current!, `${name}.svg`)}>
          Save as SVG
        </button>
      </div>
    </section>
  );
}
