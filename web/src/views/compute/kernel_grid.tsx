/** A kernel as a grid of cells, to be drawn with the pointer or typed by the keys. */

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { short } from "../../parts/numbers";

interface KernelGridProps {
  readonly values: readonly (readonly number[])[];
  /** Store new values; absent where the kernel is only shown. */
  readonly onChange?: (values: number[][]) => void;
}

/** Pixels of a cell, in the drawing's own measure. */
const CELL = 40;

function opacity(value: number, most: number): number {
  return most ? 0.08 + (0.62 * Math.abs(value)) / most : 0;
}

/** Cells with their values; where they can be changed, the pointer draws the value in the field above, and keys move and type. */
export function KernelGrid({ values, onChange }: KernelGridProps) {
  const brush = useRef(signal(1)).current;
  const place = useRef(signal<readonly [number, number]>([0, 0])).current;
  const field = useRef<HTMLInputElement>(null);
  const drawing = useRef<SVGSVGElement>(null);
  const rows = values.length;
  const columns = values[0]!.length;
  const [row, column] = [Math.min(place.value[0], rows - 1), Math.min(place.value[1], columns - 1)];
  const most = Math.max(...values.map((line) => Math.max(...line.map(Math.abs))));
  const latest = useRef(values);
  latest.current = values;

  const put = (at: readonly [number, number], value: number): void => {
    if (!onChange || latest.current[at[0]]![at[1]] === value) return;
    const next = latest.current.map((line) => [...line]);
    next[at[0]]![at[1]] = value;
    latest.current = next; // the pointer may reach the next cell before the page is drawn again
    onChange(next);
  };
  const focusCell = ([down, right]: readonly [number, number]): void => {
    place.value = [down, right];
    drawing.current!.querySelector<SVGGElement>(`[data-place="${down},${right}"]`)?.focus();
  };
  const cellAt = (event: PointerEvent): [number, number] | null => {
    const under = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-place]");
    if (!under || !drawing.current!.contains(under)) return null;
    return under.getAttribute("data-place")!.split(",").map(Number) as [number, number];
  };
  const draw = (event: PointerEvent): void => {
    if (!onChange || !(event.buttons & 1)) return;
    const at = cellAt(event);
    if (!at) return;
    place.value = at;
    put(at, brush.value);
  };
  const beginTyping = (text: string): void => {
    field.current!.value = text;
    field.current!.focus();
  };
  const key = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves: Record<string, readonly [number, number]> = {
      ArrowUp: [Math.max(row - 1, 0), column],
      ArrowDown: [Math.min(row + 1, rows - 1), column],
      ArrowLeft: [row, Math.max(column - 1, 0)],
      ArrowRight: [row, Math.min(column + 1, columns - 1)],
      Home: [row, 0],
      End: [row, columns - 1],
    };
    const target = Object.hasOwn(moves, event.key) ? moves[event.key] : undefined;
    if (target) focusCell(target);
    else if (onChange && (event.key === " " || event.key === "Enter")) put([row, column], brush.value);
    else if (onChange && /^[\d.-]$/.test(event.key)) beginTyping(event.key);
    else if (onChange && event.key === "F2") {
      beginTyping(String(values[row]![column]!));
      field.current!.select();
    } else return;
    event.preventDefault();
  };
  return (
    <div class="kernel-grid">
      {onChange && <BrushField brush={brush} field={field} onStore={(value) => (put([row, column], value), focusCell([row, column]))} />}
      <svg
        ref={drawing}
        class="grid"
        role="grid"
        aria-label={onChange ? "Kernel: arrow keys move, a digit begins a new value, Space draws" : "Kernel"}
        viewBox={`0 0 ${columns * CELL} ${rows * CELL}`}
        width={columns * CELL}
        onPointerDown={draw}
        onPointerMove={draw}
        onKeyDown={key}
      >
        {values.map((line, down) => (
          <g role="row" key={down}>
            {line.map((value, right) => (
              <g
                class="cell"
                role="gridcell"
                key={right}
                tabIndex={down === row && right === column ? 0 : -1}
                data-place={`${down},${right}`}
                aria-label={`row ${down}, column ${right}: ${short(value)}`}
                onFocus={() => (place.value = [down, right])}
              >
                <rect
                  class={value < 0 ? "negative" : "positive"}
                  x={right * CELL + 0.5}
                  y={down * CELL + 0.5}
                  width={CELL - 1}
                  height={CELL - 1}
                  fill-opacity={value ? opacity(value, most) : 0}
                />
                <text x={(right + 0.5) * CELL} y={(down + 0.5) * CELL} font-size={short(value).length > 4 ? 10 : 14}>
                  {short(value)}
                </text>
              </g>
            ))}
          </g>
        ))}
      </svg>
    </div>
  );
}

interface BrushFieldProps {
  readonly brush: { value: number };
  readonly field: { current: HTMLInputElement | null };
  readonly onStore: (value: number) => void;
}

/** The value that the pointer draws; Enter also stores it in the cell that the keys stand on. */
function BrushField({ brush, field, onStore }: BrushFieldProps) {
  const read = (): number | null => {
    const text = field.current!.value.trim().replace("−", "-");
    const value = Number(text);
    const valid = text !== "" && Math.abs(value) <= 1e30;
    field.current!.setCustomValidity(valid ? "" : "Enter a number, such as 3 or -0.5");
    if (!valid) field.current!.reportValidity();
    return valid ? value : null;
  };
  useEffect(() => {
    field.current!.value = String(brush.value);
  }, []);
  return (
    <p class="value-field">
      <label for="brush">Value to draw</label>
      <input
        id="brush"
        ref={field}
        inputMode="decimal"
        autocomplete="off"
        onChange={() => {
          const value = read();
          if (value !== null) brush.value = value;
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter" && event.key !== "Escape") return;
          const value = event.key === "Enter" ? read() : null;
          if (value === null) {
            field.current!.value = String(brush.value);
            return;
          }
          brush.value = value;
          onStore(value);
        }}
      />
    </p>
  );
}

/** A kernel that is too large for cells, as a picture: one pixel for each value, blue below zero and red above. */
export function KernelMap({ values }: { values: readonly (readonly number[])[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const rows = values.length;
  const columns = values[0]!.length;
  useEffect(() => {
    const element = canvas.current!;
    [element.width, element.height] = [columns, rows];
    const context = element.getContext("2d")!;
    const image = context.createImageData(columns, rows);
    const most = Math.max(...values.map((line) => Math.max(...line.map(Math.abs)))) || 1;
    values.flat().forEach((value, place) => image.data.set([...colour(value / most), 255], 4 * place));
    context.putImageData(image, 0, 0);
  }, [values]);
  return <canvas ref={canvas} class="kernel-map" role="img" aria-label={`Kernel of ${rows} rows and ${columns} columns`} style={{ aspectRatio: `${columns} / ${rows}` }} />;
}

const [BELOW, MIDDLE, ABOVE] = [
  [33, 102, 172],
  [247, 247, 247],
  [178, 24, 43],
] as const;

/** Return the colour of a value from -1 to 1, as the server colours differences. */
function colour(value: number): [number, number, number] {
  const end = value < 0 ? BELOW : ABOVE;
  const part = Math.abs(value);
  return [0, 1, 2].map((channel) => Math.round(MIDDLE[channel]! + part * (end[channel]! - MIDDLE[channel]!))) as [number, number, number];
}
