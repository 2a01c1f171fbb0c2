/** The chapter's sixth exercise: several adjacent outputs computed together, which read most inputs only once. */

import { type Axis, extentOf, type Layer, leastReads, outputLength, readsOf } from "../../core";
import { COST_BOUNDS } from "../../state";
import { costState, setPart } from "../../state/store";
import { Slider } from "../../parts/controls";
import { FigureFrame } from "../../parts/figure";
import { counted, grouped } from "../../parts/numbers";

/** Return the strip that is shown: at most as large as the output. */
export function stripOf(layer: Layer, [rows, columns]: readonly [number, number]): [number, number] {
  return [Math.min(rows, outputLength(layer.rows, false)), Math.min(columns, outputLength(layer.columns, false))];
}

const digits = (value: number): string => grouped(Number(value.toPrecision(4)));

export function Strips({ layer }: { layer: Layer }) {
  const [height, width] = stripOf(layer, costState.value.strip);
  const { rows, columns, axes } = layer;
  const down = readsOf(rows, height);
  const across = readsOf(columns, width);
  const window = rows.kernel * columns.kernel;
  const outputs = height * width;
  const perOutput = (down * across) / outputs;
  const slider = (label: string, place: 0 | 1) => (
    <Slider
      label={label}
      value={place ? width : height}
      bounds={[1, Math.min(COST_BOUNDS.strip[1], outputLength(place ? columns : rows, false))]}
      onChange={(value) => setPart("cost", { strip: place ? [height, value] : [value, width] })}
    />
  );
  const product = (a: number, b: number): string => (axes === 1 ? "" : `${a} × ${b} = `);
  const times = window / perOutput;
  return (
    <>
      <FigureFrame
        name="convolith-strips"
        label="Wider strips"
        stacking="rows"
        side={COST_BOUNDS.strip[1]}
        heading={
          <>
            <h2>Wider strips: how often an input is read</h2>
            <p class="note">
              An output alone reads its whole window. Outputs side by side share most of their windows: computed
              together, as one strip, they read each input only once. Dashed: an output alone, and the least of all widths.
            </p>
          </>
        }
        actions={
          <div class="strip-sliders">
            {slider("Outputs side by side", 1)}
            {axes === 2 && slider("Rows of outputs", 0)}
          </div>
        }
      >
        <Bars layer={layer} height={height} width={width} />
      </FigureFrame>
      <section class="card" aria-label="Reads per output">
        <h2>{digits(perOutput)} reads per output instead of {grouped(window)}</h2>
        <dl class="strip-reads">
          <dt>alone</dt>
          <dd>
            {product(rows.kernel, columns.kernel)}
            {counted(window, "read")} per output
          </dd>
          <dt>in the strip</dt>
          <dd>
            {product(down, across)}
            {counted(down * across, "input")} for {axes === 2 && `${height} × `}
            {counted(width, "output")}:{" "}
            {digits(perOutput)} per output, {times === 1 ? "no fewer" : `${digits(times)} times fewer`}
          </dd>
          <dt>{axes === 1 ? "places" : "columns"} read</dt>
          <dd>{spanText(columns, width, across)}</dd>
          <dt>any width</dt>
          <dd>
            at least {digits((down * leastReads(columns)) / height)} per output
            {axes === 2 && ` with ${counted(height, "row")}, ${leastReads(rows) * leastReads(columns)} with many`}
          </dd>
        </dl>
        <p>
          There is a limit: the strip adds up {counted(outputs, "sum")} at once. A processor holds some 16 or 32 vectors of
          numbers in its registers; sums that do not fit are written to memory and read again, while the gain of one more
          column becomes small.
        </p>
        <p class="note">
          Counted for one input channel, away from the border. Convolith’s engine <code>direct</code> computes such strips:
          a few rows, several vectors of columns and several output channels, which all share an input once it is read.
        </p>
      </section>
    </>
  );
}

/** Say where the number of columns that a strip reads comes from. */
function spanText({ kernel, stride, dilation }: Axis, width: number, across: number): string {
  const span = (width - 1) * stride + (kernel - 1) * dilation + 1;
  return across === span
    ? `(${width} − 1) · ${stride} + (${kernel} − 1) · ${dilation} + 1 = ${span}: all from the first to the last`
    : `${across} of the ${span} from the first to the last`;
}

/** Width and height of the chart, and the room of its axes, in the units of the drawing. */
const CHART = { width: 420, height: 190, left: 44, bottom: 36, top: 16 };

function Bars({ layer, height, width }: { layer: Layer; height: number; width: number }) {
  const { rows, columns } = layer;
  const down = readsOf(rows, height);
  const count = Math.min(COST_BOUNDS.strip[1], outputLength(columns, false));
  const values = Array.from({ length: count }, (_, n) => (down * readsOf(columns, n + 1)) / (height * (n + 1)));
  const alone = rows.kernel * columns.kernel;
  const limit = (down * leastReads(columns)) / height;
  const base = CHART.height - CHART.bottom;
  const y = (value: number): number => base - (value / alone) * (base - CHART.top);
  const step = (CHART.width - CHART.left) / count;
  const labelled = [0, count - 1, width - 1].filter((n, place, all) => place === 2 || Math.abs(n - all[2]!) > 1);
  return (
    <svg
      class="grid strip-chart"
      role="img"
      aria-label={`Reads per output by width of the strip: ${values.map((value, n) => `${n + 1}: ${digits(value)}`).join(", ")}`}
      width={CHART.width}
      viewBox={`0 0 ${CHART.width} ${CHART.height}`}
    >
      {values.map((value, n) => (
        <rect
          key={n}
          class={n === width - 1 ? "chosen" : ""}
          x={CHART.left + n * step + step * 0.1}
          y={y(value)}
          width={step * 0.8}
          height={base - y(value)}
          onClick={() => setPart("cost", { strip: [height, n + 1] })}
        />
      ))}
      <path class="limit" d={`M${CHART.left} ${y(alone)}H${CHART.width}M${CHART.left} ${y(limit)}H${CHART.width}`} />
      <path class="axis" d={`M${CHART.left} ${base}H${CHART.width}`} />
      <text class="end" x={CHART.left - 6} y={y(alone)}>
        {digits(alone)}
      </text>
      {y(limit) - y(alone) > 14 && (
        <text class="end" x={CHART.left - 6} y={y(limit)}>
          {digits(limit)}
        </text>
      )}
      {labelled.map((n) => (
        <text key={n} x={CHART.left + (n + 0.5) * step} y={base + 11}>
          {n + 1}
        </text>
      ))}
      <text x={(CHART.left + CHART.width) / 2} y={CHART.height - 7}>
        outputs side by side; bars: reads per output
      </text>
    </svg>
  );
}

export function stripSizes(layer: Layer): { size: number[]; outputs: number } {
  const strip = stripOf(layer, costState.value.strip);
  const axes = layer.axes === 1 ? [layer.columns] : [layer.rows, layer.columns];
  const counts = strip.slice(2 - layer.axes);
  return {
    size: axes.map((axis, place) => (counts[place]! - 1) * axis.stride + extentOf(axis)),
    outputs: strip[0] * strip[1],
  };
}
