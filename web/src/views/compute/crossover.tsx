/** The chart of the engines' times over the size of the kernel. */

import { signal } from "@preact/signals";
import { Chart } from "../../server/chart";
import { JobStatus } from "../../server/job";
import { Switch } from "../../parts/controls";
import { choices, crossoverJob, crossoverOf, curves, sizes, startCrossover } from "./crossover_run";
import { timeText } from "./engines";
import type { Run } from "./run";

const isSeparable = signal(false);
const isMeasured = signal(false);

const write = (milliseconds: number): string => timeText(milliseconds / 1e3);

export function Crossover({ run }: { run: Run }) {
  const found = sizes.value;
  return (
    <section class="card" aria-label="Times over the size of the kernel">
      <h2>Which engine for which size of kernel?</h2>
      <p>
        Direct sums take longer the larger the kernel is; Fourier transforms hardly do. The chart shows where one overtakes the
        other, for a picture like this one.
      </p>
      <div class="row">
        <Switch label="Kernels that are a column times a row" checked={isSeparable.value} onChange={(checked) => (isSeparable.value = checked)} />
        <Switch label="Measure the engines too" checked={isMeasured.value} onChange={(checked) => (isMeasured.value = checked)} />
        <button type="button" disabled={!run.plan} onClick={() => startCrossover(run, isSeparable.value, isMeasured.value)}>
          Draw the chart
        </button>
      </div>
      <JobStatus job={crossoverJob} />
      {found.length > 0 && (
        <>
          <p class="note">
            {crossoverOf.value}. The plan chooses {choices(found)}.
          </p>
          <Chart
            title="Times of the engines over the size of the kernel"
            x={found.map((event) => event.kernel_size)}
            series={curves(found)}
            xAxis={{ label: "rows and columns of the kernel", log: true }}
            yAxis={{ label: "time", log: true, write }}
            lineWord="planned"
            dotsWord="measured"
          />
          <p class="note">Lines: what the planner expects; dots: what was measured. A press on a name hides its curve.</p>
        </>
      )}
    </section>
  );
}
