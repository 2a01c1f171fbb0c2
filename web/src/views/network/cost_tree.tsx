/** The costs of a model's modules as a tree: rows that open and close, with the share of the whole as bars. */

import { signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { isOpen, mostBytes, parentsOf, placesOf, visibleRows } from "../../core";
import { PASS_NAMES } from "../../state";
import { networkState, setNetwork } from "../../state/store";
import { Choice, Slider } from "../../parts/controls";
import { amount, counted, grouped } from "../../parts/numbers";
import { isRefused, type ModuleCost, type NetworkCost, type PeakFound } from "./network_run";

/** Most rows that are drawn at once: more make the page slow. */
const MOST_ROWS = 600;

/** Position of the row that was last pointed at or walked to. */
const current = signal(0);

interface Column {
  readonly key: string;
  readonly title: string;
  readonly unit: string;
  readonly total: number;
  readonly of: (row: ModuleCost) => number;
}

/** Return the columns: operations of a pass, parameters, and the memory held while a module runs, or else the bytes moved. */
function columnsOf(cost: NetworkCost, pass: "forward" | "backward", peak: PeakFound | null): Column[] {
  const most = peak && mostBytes(peak.moments.module, peak.moments.bytes);
  return [
    { key: "multiplications", title: "multiplications", unit: "", total: cost[pass].multiplications, of: (row) => row[pass].multiplications },
    { key: "additions", title: "additions", unit: "", total: cost[pass].additions, of: (row) => row[pass].additions },
    { key: "parameters", title: "parameters", unit: "", total: cost.parameters, of: (row) => row.parameters },
    most
      ? { key: "memory", title: "most memory held", unit: "B", total: peak.bytes, of: (row) => most.get(row.name) ?? 0 }
      : { key: "memory", title: "bytes moved", unit: "B", total: cost[pass].bytes, of: (row) => row[pass].bytes },
  ];
}

export function CostTree({ cost, peak }: { cost: NetworkCost; peak: PeakFound | null }) {
  const { pass, depth, toggled } = networkState.value;
  const { modules } = cost;
  const depths = modules.map((row) => row.depth);
  const deepest = Math.max(...depths);
  const parents = parentsOf(depths);
  const places = placesOf(parents);
  const flips = new Set(toggled);
  const all = visibleRows(depths, depth, flips);
  const rows = all.slice(0, MOST_ROWS);
  const columns = columnsOf(cost, pass, peak);
  const hasParts = (row: number): boolean => (depths[row + 1] ?? 0) > depths[row]!;
  const open = (row: number): boolean => isOpen(depths[row]!, depth, flips.has(row));
  const toggle = (row: number): void => {
    if (!hasParts(row)) return;
    const next = flips.has(row) ? toggled.filter((other) => other !== row) : [...toggled, row];
    setNetwork({ toggled: next });
  };
  const chosen = rows.includes(current.value) ? current.value : rows[0]!;
  return (
    <section class="card" aria-label="Costs by module">
      <div class="row heading">
        <h2>Where the costs are</h2>
        <Choice
          label="Operations"
          options={PASS_NAMES.map((name) => [name, name])}
          value={pass}
          onChange={(value) => setNetwork({ pass: value })}
        />
        {deepest > 0 && (
          <Slider
            label="Open to depth"
            value={Math.min(depth, deepest)}
            bounds={[0, Math.min(deepest, 12)]}
            onChange={(value) => setNetwork({ depth: value, toggled: [] })}
          />
        )}
      </div>
      <p class="note">
        Each row counts everything inside it, and its bars show its share of the whole model. Arrow keys walk; right and
        left open and close.
      </p>
      <Rows {...{ modules, rows, columns, places, hasParts, open, toggle, chosen, parents, cost }} />
      {all.length > rows.length && (
        <p class="note">The first {grouped(rows.length)} of {counted(all.length, "row")} are shown: close some, or open less deeply.</p>
      )}
      <RowDetail row={modules[chosen]!} model={cost.model} columns={columns} />
    </section>
  );
}

interface RowsProps {
  readonly modules: readonly ModuleCost[];
  readonly rows: readonly number[];
  readonly columns: readonly Column[];
  readonly places: readonly { place: number; of: number }[];
  readonly parents: readonly number[];
  readonly hasParts: (row: number) => boolean;
  readonly open: (row: number) => boolean;
  readonly toggle: (row: number) => void;
  readonly chosen: number;
  readonly cost: NetworkCost;
}

function Rows({ modules, rows, columns, places, parents, hasParts, open, toggle, chosen, cost }: RowsProps) {
  const body = useRef<HTMLTableSectionElement>(null);
  const wanted = useRef(-1);
  useLayoutEffect(() => {
    if (wanted.current < 0) return;
    body.current!.querySelector<HTMLElement>(`[data-row="${wanted.current}"]`)?.focus();
    wanted.current = -1;
  });
  const go = (row: number | undefined): void => {
    if (row === undefined || row < 0) return;
    current.value = row;
    wanted.current = row;
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const own = (event.target as Element).closest("[data-row]")?.getAttribute("data-row");
    if (own === null || own === undefined || event.altKey || event.metaKey || event.ctrlKey) return;
    const row = Number(own);
    const place = rows.indexOf(row);
    switch (event.key) {
      case "ArrowDown":
        go(rows[place + 1]);
        break;
      case "ArrowUp":
        go(rows[place - 1]);
        break;
      case "ArrowRight":
        if (hasParts(row)) open(row) ? go(row + 1) : toggle(row);
        break;
      case "ArrowLeft":
        if (hasParts(row) && open(row)) toggle(row);
        else go(parents[row]);
        break;
      case "Home":
        go(rows[0]);
        break;
      case "End":
        go(rows.at(-1));
        break;
      case "Enter":
      case " ":
        toggle(row);
        break;
      default:
        return;
    }
    event.preventDefault();
  };
  return (
    <div class="scroll">
      <table class="tree" role="treegrid" aria-label={`Modules of ${cost.model}`}>
        <thead>
          <tr role="row">
            <th scope="col" role="columnheader">
              module
            </th>
            {columns.map((column) => (
              <th scope="col" role="columnheader" class="number" key={column.key}>
                {column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody ref={body} onKeyDown={onKeyDown}>
          {rows.map((row) => {
            const module = modules[row]!;
            const parts = hasParts(row);
            return (
              <tr
                key={row}
                role="row"
                data-row={row}
                class={row === chosen ? "chosen" : undefined}
                tabIndex={row === chosen ? 0 : -1}
                aria-level={module.depth + 1}
                aria-posinset={places[row]!.place}
                aria-setsize={places[row]!.of}
                aria-expanded={parts ? open(row) : undefined}
                onFocus={() => (current.value = row)}
                onPointerEnter={(event) => event.pointerType === "mouse" && (current.value = row)}
                onClick={() => toggle(row)}
              >
                <th scope="row" role="rowheader" style={{ paddingLeft: `${module.depth * 1.1}rem` }}>
                  <span class={parts ? (open(row) ? "twist open" : "twist") : "twist none"} aria-hidden="true" />
                  <span class="name">{module.name.slice(module.name.lastIndexOf(".") + 1) || cost.model}</span>{" "}
                  <span class="kind">{module.name ? module.kind : "the model"}</span>
                </th>
                {columns.map((column) => (
                  <Share key={column.key} column={column} row={module} />
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function Share({ column, row }: { column: Column; row: ModuleCost }) {
  const value = column.of(row);
  const share = column.total ? value / column.total : 0;
  return (
    <td role="gridcell" class={`number ${column.key}`} title={grouped(value)}>
      {value ? amount(value, column.unit) : "0"}
      <span class="share" aria-hidden="true">
        <span style={{ width: `${(100 * Math.min(share, 1)).toFixed(2)}%` }} />
      </span>
    </td>
  );
}

/** The exact numbers of one row; it is as high for every row, so that nothing on the page moves. */
function RowDetail({ row, model, columns }: { row: ModuleCost; model: string; columns: readonly Column[] }) {
  const share = (column: Column): string =>
    column.total ? ` (${((100 * column.of(row)) / column.total).toFixed(1)}%)` : "";
  return (
    <div class="row-detail" data-module={row.name}>
      <h3>
        <span class="name">{row.name || model}</span> {row.name && <span class="kind">{row.kind}</span>}
      </h3>
      <p class="note">
        {columns.map((column) => `${grouped(column.of(row))} ${column.unit ? `bytes: ${column.title}` : column.title}${share(column)}`).join("; ")}
        {row.receptive_field ? `; an output sees ${row.receptive_field} (pixels by stride)` : ""}.
      </p>
    </div>
  );
}

/** Return the peak of a run, if it has one. */
export function peakOf(part: PeakFound | { readonly refused: string } | null): PeakFound | null {
  return part && !isRefused(part) ? part : null;
}

