/** A line chart with a legend, a cursor that the arrow keys move too, and the same numbers as a table. */

import { effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { theme } from "../state/store";

/** One named curve: a line, dots, or both, at the chart's x values; null where there is no value. */
export interface Series {
  readonly label: string;
  readonly line?: readonly (number | null)[];
  readonly dots?: readonly (number | null)[];
  /** Number of the colour, from 0 on; the place in the list by default. */
  readonly colour?: number;
  readonly dashed?: boolean;
  readonly wide?: boolean;
}

export interface AxisOptions {
  readonly label: string;
  readonly log?: boolean;
  /** Write a value, in the legend, at the axis and in the table. */
  readonly write?: (value: number) => string;
}

interface ChartProps {
  /** Name of the chart, for those who do not see it. */
  readonly title: string;
  /** Ascending numbers. */
  readonly x: readonly number[];
  readonly series: readonly Series[];
  readonly xAxis: AxisOptions;
  readonly yAxis: AxisOptions;
  /** Names of a curve's two parts, where it has both. */
  readonly lineWord?: string;
  readonly dotsWord?: string;
  readonly height?: number;
  /** Say more about the place of the cursor, in words. */
  readonly describe?: (place: number) => string;
}

/** Most rows of the table: of more, some are left out evenly. */
const MOST_ROWS = 400;
/** Number of points up to which the table is written before it is opened. */
const FEW_ROWS = 100;

/** Number of colours of curves that the style sheet has. */
export const COLOURS = 10;
const DASH = [7, 5];

/** Return a colour of the style sheet as the browser resolves it for the scheme that is shown. */
function resolved(element: HTMLElement, name: string): string {
  element.style.color = `var(--${name})`;
  const { color } = getComputedStyle(element);
  element.style.color = "";
  return color;
}

const plain = (value: number): string => String(Number(value.toPrecision(4)));
const colourOf = (series: Series, place: number): number => ((series.colour ?? place) % COLOURS) + 1;

export function Chart(props: ChartProps) {
  const { title, x, series, xAxis, yAxis, lineWord = "line", dotsWord = "dots", height = 320, describe } = props;
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const place = useRef(signal<number | null>(null)).current;
  const hidden = useRef(signal<ReadonlySet<string>>(new Set())).current;
  const shown = series.filter(({ label }) => !hidden.value.has(label));
  const shape = JSON.stringify([xAxis.label, yAxis.label, xAxis.log, yAxis.log, height, ...shown.map((one) => [one.label, !one.line, !one.dots, one.colour, one.dashed, one.wide])]);

  // Another chart is made where the curves or the axes are others; new values are given to the one that is there.
  useEffect(() => {
    const element = frame.current!;
    const made = new uPlot(optionsOf(element, props, shown, (index) => (place.value = index)), dataOf(x, shown), element);
    plot.current = made;
    const resize = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    resize.observe(element);
    const repaint = (): void => made.redraw(false);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", repaint);
    const stop = effect(() => {
      void theme.value;
      requestAnimationFrame(repaint);
    });
    return () => {
      stop();
      scheme.removeEventListener("change", repaint);
      resize.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => {
    plot.current?.setData(dataOf(x, shown));
  }, [x, series]);

  const move = (event: KeyboardEvent): void => {
    const last = x.length - 1;
    const now = place.value ?? -1;
    const target = { ArrowRight: Math.min(now + 1, last), ArrowLeft: Math.max(now - 1, 0), Home: 0, End: last }[event.key];
    if (target === undefined || last < 0) return;
    event.preventDefault();
    const made = plot.current!;
    made.setCursor({ left: made.valToPos(x[target]!, "x"), top: 10 });
    place.value = target;
  };
  const toggle = (label: string): void => {
    const next = new Set(hidden.value);
    if (!next.delete(label)) next.add(label);
    hidden.value = next;
  };
  const at = place.value;
  const write = yAxis.write ?? plain;
  return (
    <div class="chart">
      <div class="legend" role="group" aria-label={`Curves of ${title}`}>
        {series.map((one, number) => {
          const value = at === null ? null : (one.dots?.[at] ?? one.line?.[at] ?? null);
          return (
            <button
              type="button"
              key={one.label}
              class="quiet"
              aria-pressed={!hidden.value.has(one.label)}
              onClick={() => toggle(one.label)}
            >
              <span class={`swatch colour-${colourOf(one, number)}${one.dashed ? " dashed" : ""}`} />
              {one.label}
              {value !== null && <span class="value">{write(value)}</span>}
            </button>
          );
        })}
        <span class="note" role="status">
          {at !== null && x[at] !== undefined && `${xAxis.label}: ${(xAxis.write ?? plain)(x[at]!)}${describe ? `: ${describe(at)}` : ""}`}
        </span>
      </div>
      <div ref={frame} class="plot" tabIndex={0} role="group" aria-label={`${title}: arrow keys move along the chart; a table with the numbers follows`} onKeyDown={move} />
      <ChartTable {...props} lineWord={lineWord} dotsWord={dotsWord} />
    </div>
  );
}

/** The numbers of a chart; a long table is written once it is opened, since a stream changes it many times a second. */
function ChartTable({ title, x, series, xAxis, yAxis, lineWord = "", dotsWord = "", describe }: ChartProps) {
  const isOpen = useRef(signal(false)).current;
  const write = yAxis.write ?? plain;
  const columns = columnsOf(series, lineWord, dotsWord);
  const stride = Math.ceil(x.length / MOST_ROWS);
  const rows = isOpen.value || x.length <= FEW_ROWS ? x.flatMap((_, row) => (row % stride === 0 || row === x.length - 1 ? [row] : [])) : [];
  return (
    <details onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
      <summary>The numbers as a table</summary>
      {stride > 1 && <p class="note">Every {stride}th row of {x.length}.</p>}
      <div class="scroll tall" tabIndex={0} role="group" aria-label={`Table of ${title}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">{xAxis.label}</th>
              {columns.map(({ label }) => (
                <th scope="col" class="number" key={label}>
                  {label}
                </th>
              ))}
              {describe && <th scope="col">what it is</th>}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row}>
                <th scope="row">{(xAxis.write ?? plain)(x[row]!)}</th>
                {columns.map(({ label, values }) => (
                  <td class="number" key={label}>
                    {values[row] == null ? "–" : write(values[row]!)}
                  </td>
                ))}
                {describe && <td>{describe(row)}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

interface Column {
  readonly label: string;
  readonly values: readonly (number | null)[];
}

function columnsOf(series: readonly Series[], lineWord: string, dotsWord: string): Column[] {
  return series.flatMap(({ label, line, dots }) => {
    const both = line && dots;
    return [
      ...(line ? [{ label: both ? `${label}, ${lineWord}` : label, values: line }] : []),
      ...(dots ? [{ label: both ? `${label}, ${dotsWord}` : label, values: dots }] : []),
    ];
  });
}

function dataOf(x: readonly number[], shown: readonly Series[]): uPlot.AlignedData {
  const rows = shown.flatMap(({ line, dots }) => [line, dots].filter((values) => values !== undefined));
  return [[...x], ...rows.map((values) => x.map((_, place) => values[place] ?? null))];
}

function optionsOf(element: HTMLElement, props: ChartProps, shown: readonly Series[], onPlace: (index: number | null) => void): uPlot.Options {
  const { xAxis, yAxis, height = 320 } = props;
  const paint = (name: string) => () => resolved(element, name);
  const axis = (own: AxisOptions, size: number): uPlot.Axis => ({
    label: own.label,
    stroke: paint("ink"),
    grid: { stroke: paint("line"), width: 1 },
    ticks: { stroke: paint("line"), width: 1 },
    font: "13px system-ui, sans-serif",
    labelFont: "13px system-ui, sans-serif",
    labelSize: 22,
    size,
    values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : (own.write ?? plain)(tick))),
  });
  const curves = shown.flatMap((one): uPlot.Series[] => {
    const stroke = paint(`series-${colourOf(one, props.series.indexOf(one))}`);
    const parts: uPlot.Series[] = [];
    const line: uPlot.Series = { label: one.label, stroke, width: one.wide ? 3 : 2, points: { show: false }, spanGaps: true };
    if (one.line) parts.push(one.dashed ? { ...line, dash: DASH } : line);
    if (one.dots) parts.push({ label: one.label, stroke, width: 0, paths: () => null, points: { show: true, size: 8, stroke, fill: stroke } });
    return parts;
  });
  return {
    width: Math.max(element.clientWidth, 50),
    height,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 } },
    scales: {
      x: { time: false, ...(xAxis.log && { distr: 3 as const, range: (_, least, most) => [least / 1.08, most * 1.08] as [number, number] }) },
      y: { ...(yAxis.log && { distr: 3 as const }) },
    },
    axes: [
      { ...axis(xAxis, 38), ...(xAxis.log && { splits: (made) => thinned(made.data[0], element.clientWidth), filter: (_, splits) => splits }) },
      { ...axis(yAxis, 64) },
    ],
    series: [{}, ...curves],
    hooks: { setCursor: [(made) => onPlace(made.cursor.idx ?? null)] },
  };
}

/** Return x values for the marks of a logarithmic axis, which are far enough apart to be read. */
function thinned(x: ArrayLike<number>, width: number): number[] {
  const [first = 1, last = 1] = [x[0], x[x.length - 1]];
  const apart = (Math.log(last / first) * 34) / Math.max(width - 90, 50);
  const kept: number[] = [];
  for (const value of Array.from(x)) if (!kept.length || Math.log(value / kept.at(-1)!) >= apart) kept.push(value);
  return kept;
}
