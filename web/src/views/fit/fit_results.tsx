/** What a fit found: its numbers, what is to be careful about, the loss by step, the residual, the sizes that were compared. */

import { useMemo } from "preact/hooks";
import { Chart } from "../../server/chart";
import type { Picture } from "../../server/client";
import { PictureView, sharedView, ZoomButtons } from "../../server/picture";
import { counted, long, short } from "../../parts/numbers";
import { fitJob } from "./fit_jobs";
import { largestDifference } from "./fit_kernels";
import { inWordsOfThePage } from "./fit_words";
import { type Candidate, type FitRun, type Found, isUnidentified } from "./fit_run";

/** Most points of the chart of the losses: further ones could not be told apart. */
const MOST_POINTS = 600;

/** The loss of each step, and the closed form's optimum as a line. */
export function Losses({ run }: { run: FitRun }) {
  const { losses, closed, request } = run;
  const huber = request["huber_delta"] != null;
  const { x, line } = useMemo(() => thinned(losses), [losses]);
  const optimum = !huber && closed?.loss != null && closed.loss > 0 ? closed.loss : null;
  const series = useMemo(
    () => [
      { label: "descent", line, colour: 0 },
      ...(optimum === null ? [] : [{ label: "closed form: the optimum", line: x.map(() => optimum), colour: 1, dashed: true }]),
    ],
    [line, optimum],
  );
  const first = losses.find((loss) => loss !== null);
  const last = losses.at(-1);
  if (!losses.length) return null;
  return (
    <section class="card" aria-label="Loss by step">
      <h2>The loss, step by step</h2>
      <p>
        {counted(losses.length, "step")}: from {first == null ? "–" : short(first)} to {last == null ? "–" : long(last)}
        {optimum !== null && last != null && `, ${long(last / optimum)} times the optimum of the closed form`}.
        {huber && " Huber’s loss has no closed form, whose optimum could be drawn."}
        {!huber && closed?.loss === 0 && " The optimum is zero, which a logarithmic axis cannot show."}
      </p>
      <Chart
        title="The loss of each step"
        x={x}
        series={series}
        xAxis={{ label: "step" }}
        yAxis={{ label: huber ? "Huber’s loss" : "sum of squared errors", log: true, write: short }}
        height={280}
      />
    </section>
  );
}

/** Return steps and losses, at most so many, the first and the last among them; a loss that is not positive is no point of a logarithmic axis. */
function thinned(losses: FitRun["losses"]): { x: number[]; line: (number | null)[] } {
  const stride = Math.max(1, Math.ceil(losses.length / MOST_POINTS));
  const x = losses.flatMap((_, step) => (step % stride === 0 || step === losses.length - 1 ? [step] : []));
  return { x, line: x.map((step) => (losses[step]! > 0 ? losses[step]! : null)) };
}

/** Return the warnings of a run in the words of the page: that the data cannot identify the kernel, and all others. */
function warningsOf(run: FitRun): { unknown: string[]; others: string[] } {
  const said = [...new Set([...(run.closed?.warnings ?? []), ...(run.descent?.warnings ?? [])])];
  return {
    unknown: said.filter(isUnidentified).map(inWordsOfThePage),
    others: said.filter((text) => !isUnidentified(text)).map(inWordsOfThePage),
  };
}

/** Says that the pictures cannot identify the kernel, where they cannot. */
export function Unidentified({ run }: { run: FitRun }) {
  const { unknown } = warningsOf(run);
  if (!unknown.length) return null;
  return (
    <section class="card careful" role="alert" aria-label="The kernel is not identified">
      <h2>These pictures cannot identify the kernel</h2>
      <p>
        Several kernels explain the second picture equally well, since the first one is flat or repeats itself. The one that is
        shown is the smallest of them: its values need not be those of the true kernel.
      </p>
      {unknown.map((text) => (
        <p key={text}>{text}</p>
      ))}
    </section>
  );
}

/** What the fit warns of, as sentences. */
function Warnings({ run }: { run: FitRun }) {
  const { others } = warningsOf(run);
  if (!others.length) return null;
  return (
    <div class="warnings">
      <h3>Be careful</h3>
      <ul>
        {others.map((text) => (
          <li key={text}>{text}</li>
        ))}
      </ul>
    </div>
  );
}

interface Row {
  readonly name: string;
  readonly about: string;
  readonly of: (found: Found) => string | null;
}

const number = (value: number | null, digits: (value: number) => string = long): string | null => (value === null ? null : digits(value));

const ROWS: readonly Row[] = [
  { name: "kernel size", about: "", of: ({ kernel }) => `${kernel.length} × ${kernel[0]!.length}` },
  { name: "sum of the kernel", about: "ratio of the two pictures’ brightness", of: ({ kernel }) => number(kernel.flat().reduce<number>((sum, value) => sum + (value ?? NaN), 0)) },
  { name: "offset", about: "constant that is added", of: ({ offset }) => number(offset) },
  { name: "residual rms", about: "typical error of a pixel", of: ({ residual_rms }) => number(residual_rms) },
  { name: "explained", about: "share of the second picture’s variance", of: ({ explained }) => number(explained, (value) => `${(100 * value).toFixed(4)}%`) },
  { name: "held-out rms", about: "error of predicting tiles that were left out", of: ({ held_out_rms }) => number(held_out_rms) },
  { name: "loss", about: "what is minimised", of: ({ loss }) => number(loss) },
  { name: "condition", about: "the larger, the less certain is the kernel", of: ({ condition }) => number(condition, short) },
  { name: "learning rate", about: "size of a step", of: ({ learning_rate }) => number(learning_rate) },
];

export function FitNumbers({ run }: { run: FitRun }) {
  const { closed, descent } = run;
  if (!closed) return null;
  const columns = [["closed form", closed] as const, ...(descent ? [["descent", descent] as const] : [])];
  const rows = ROWS.map((row) => ({ ...row, values: columns.map(([, found]) => row.of(found)) })).filter(({ values }) => values.some((value) => value !== null));
  const differences = [
    ["from the known kernel", columns.map(([, found]) => largestDifference(found.kernel, "known"))],
    ["from the closed form", columns.map(([name, found]) => (name === "descent" ? largestDifference(found.kernel, closed.kernel) : null))],
  ] as const;
  return (
    <section class="card" aria-label="The fit in numbers">
      <h2>In numbers</h2>
      <div class="scroll">
        <table class="found">
          <thead>
            <tr>
              <th scope="col">quantity</th>
              {columns.map(([name]) => (
                <th scope="col" class="number" key={name}>
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(({ name, about, values }) => (
              <tr key={name}>
                <th scope="row">
                  {name}
                  {about && <span class="note"> {about}</span>}
                </th>
                {values.map((value, place) => (
                  <td class="number" key={place}>
                    {value ?? "–"}
                  </td>
                ))}
              </tr>
            ))}
            {differences.map(
              ([name, values]) =>
                values.some((value) => value !== null) && (
                  <tr key={name}>
                    <th scope="row">largest difference {name}</th>
                    {values.map((value, place) => (
                      <td class="number" key={place}>
                        {value === null ? "–" : short(value)}
                      </td>
                    ))}
                  </tr>
                ),
            )}
          </tbody>
        </table>
      </div>
      <Warnings run={run} />
      <Selected selection={closed.selection} />
    </section>
  );
}

/** Sizes and ridges that were compared by predicting tiles of the picture from the others. */
function Selected({ selection }: { selection: readonly Candidate[] }) {
  if (!selection.length) return null;
  return (
    <div class="scroll tall" tabIndex={0} role="region" aria-label="Sizes and ridges that were compared">
      <table class="selection-table">
        <caption>Sizes and ridges that were compared, by predicting tiles that were left out</caption>
        <thead>
          <tr>
            <th scope="col">kernel size</th>
            <th scope="col" class="number">
              ridge
            </th>
            <th scope="col" class="number">
              held-out rms
            </th>
            <th scope="col" class="number">
              mean square above the least
            </th>
          </tr>
        </thead>
        <tbody>
          {selection.map((one, place) => (
            <tr key={place}>
              <th scope="row">{one.kernel_size.join(" × ")}</th>
              <td class="number">{short(one.ridge)}</td>
              <td class="number">{one.rms === null ? "–" : long(one.rms)}</td>
              <td class="number">
                {one.excess_mse === null ? "–" : short(one.excess_mse)}
                {one.excess_mse_stderr !== null && ` ± ${short(one.excess_mse_stderr)}`}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const view = sharedView();

/** What the fit does not explain, as a picture, beside what it predicts. */
export function Residual({ run }: { run: FitRun }) {
  if (!run.residual) return null;
  const { residual, predicted, equations } = run.residual;
  const rounding = ROUNDING * magnitude(predicted);
  const exact = magnitude(residual) < rounding;
  return (
    <section class="card" aria-label="The residual">
      <h2>What is left over</h2>
      <p class="note">
        The second picture less the prediction{run.descent ? " of the descent" : ""}, at {counted(equations, "pixel")}. Noise alone has no
        pattern: edges or shapes in it say that no kernel of this size explains the picture.
        {exact && " Here, nothing but the rounding of the computation is left."}
      </p>
      <div class="pictures">
        <PictureView title="Residual" picture={residual} view={view} shades={exact ? { ...DIVERGING, low: -rounding, high: rounding } : DIVERGING} />
        <PictureView title="Prediction" picture={predicted} view={view} />
      </div>
      <ZoomButtons view={view} />
    </section>
  );
}

const DIVERGING = { diverging: true } as const;
/** Largest residual, relative to the largest prediction, that is rounding alone. */
const ROUNDING = 1e-9;

function magnitude({ least, largest }: Picture): number {
  return Math.max(Math.abs(least ?? 0), Math.abs(largest ?? 0));
}

/** What a stopped descent leaves, in words. */
export function Stopped({ run }: { run: FitRun }) {
  if (fitJob.phase.value !== "cancelled" || !run.losses.length) return null;
  return (
    <p>
      Stopped after {counted(run.losses.length, "step")}: the kernel is the one that was last seen, and has no residual picture.
    </p>
  );
}
