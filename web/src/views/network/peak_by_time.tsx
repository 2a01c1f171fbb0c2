/** The memory of a training step by time: what is held while each operator runs, and the operator at the peak. */

import { useMemo } from "preact/hooks";
import { Chart, type Series } from "../../server/chart";
import { amount, counted, grouped } from "../../parts/numbers";
import type { PeakFound } from "./network_run";

export const OPTIMIZER_NAMES: Readonly<Record<string, string>> = { sgd: "SGD", momentum: "SGD with momentum", adam: "Adam" };
const PHASES = ["forward", "backward", "optimizer"] as const;

export function PeakByTime({ peak }: { peak: PeakFound }) {
  const { moments } = peak;
  const { x, series } = useMemo(() => curvesOf(moments), [moments]);
  const at = moments.bytes.indexOf(peak.bytes);
  return (
    <section class="card" aria-label="Memory by time">
      <h2>Memory of a training step, by time</h2>
      <p data-peak={peak.bytes}>
        At most <strong title={`${grouped(peak.bytes)} bytes`}>{amount(peak.bytes, "B")}</strong> with {OPTIMIZER_NAMES[peak.optimizer] ?? peak.optimizer}, in operator {at + 1} of{" "}
        {grouped(moments.bytes.length)}: {described(peak)}.
      </p>
      <Chart
        title="Memory held while each operator of a training step runs"
        x={x}
        series={series}
        xAxis={{ label: "operator of the step", write: (value) => String(value) }}
        yAxis={{ label: "bytes held", write: (value) => amount(value, "B") }}
        describe={(place) =>
          described({ operator: moments.operator[place]!, module: moments.module[place]!, phase: moments.phase[place]! }) +
          `, ${amount(moments.bytes[place]!, "B")}`
        }
        height={280}
      />
      <p class="note">
        Predicted for {counted(moments.bytes.length, "operator")} of one step: parameters, gradients, the optimizer’s state and every tensor
        that is alive, with the memory that a convolution needs while it runs.
      </p>
    </section>
  );
}

function described({ operator, module, phase }: { operator: string; module: string; phase: string }): string {
  if (!phase) return "before the first operator: the model, its inputs and the optimizer’s state";
  return `${operator}${module ? ` in ${module}` : ""}, ${phase === "optimizer" ? "the optimizer’s step" : `${phase} pass`}`;
}

/** Return one curve for each phase; where one ends and the next begins, both have the value, so that no gap is seen. */
function curvesOf({ bytes, phase }: PeakFound["moments"]): { x: number[]; series: Series[] } {
  const x = bytes.map((_, place) => place + 1);
  const phases = PHASES.flatMap((name, colour) => {
    const isIn = (place: number): boolean => (phase[place] || PHASES[0]) === name;
    const line = bytes.map((value, place) => (isIn(place) || (place > 0 && isIn(place - 1)) ? value : null));
    return line.some((value) => value !== null) ? [{ label: name === "optimizer" ? "optimizer’s step" : `${name} pass`, line, colour }] : [];
  });
  const peak = bytes.reduce((most, value) => Math.max(most, value), 0);
  const at = bytes.indexOf(peak);
  const dots = bytes.map((value, place) => (place === at ? value : null));
  return { x, series: [...phases, { label: "peak", dots, colour: 3 }] };
}
