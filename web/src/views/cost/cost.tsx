/** The view "Cost": what one layer of any size computes and holds, term by term. */

import { kernelShape, type Layer, outputShape, refusal, sizeOf, TOTALS, type Totals, totalsOf } from "../../core";
import { costOptions } from "../../state";
import { costState, setPart } from "../../state/store";
import { Code } from "../../parts/code";
import { MemoryTerms, OperationTerms } from "../../parts/cost_terms";
import { grouped } from "../../parts/numbers";
import { Changes } from "./cost_changes";
import { costCode } from "./cost_code";
import { CostControls } from "./cost_controls";
import { Strips } from "./cost_strips";

export function Cost() {
  const { layer } = costState.value;
  const why = refusal(layer);
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          What one layer costs before it runs: <strong>set its size</strong>, and see every count with the formula that it
          comes from.
        </p>
        {why ? (
          <p class="card refusal" role="status">
            {why}
          </p>
        ) : (
          <Counted layer={layer} />
        )}
      </div>
      <CostControls />
    </div>
  );
}

function Counted({ layer }: { layer: Layer }) {
  const state = costState.value;
  const options = costOptions(state);
  const totals = totalsOf(layer, options);
  return (
    <>
      <Tiles layer={layer} totals={totals} />
      <Changes layer={layer} before={totals} options={options} change={state.change} />
      <OperationTerms
        layer={layer}
        options={options}
        onConvention={(convention) => setPart("cost", { convention })}
      />
      <MemoryTerms layer={layer} options={options} dtype={state.dtype} />
      <Strips layer={layer} />
      <Code code={costCode(state)} />
    </>
  );
}

const BYTES = [" bytes", " KiB", " MiB", " GiB", " TiB", " PiB"];
const COUNTS = ["", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion"];

/** Write a count in four digits, such as 115.6 million or 1.672 MiB. */
function brief(count: number | bigint, units: readonly string[]): string {
  const base = units === BYTES ? 1024 : 1000;
  let value = Number(count);
  let unit = 0;
  for (; value >= base && unit < units.length - 1; unit++) value /= base;
  return Number(value.toPrecision(4)) + units[unit]!;
}

function Tiles({ layer, totals }: { layer: Layer; totals: Totals }) {
  const state = costState.value;
  const shape = [state.batch, ...outputShape(layer).filter((_, axis) => axis !== 1 || layer.axes === 2)].join(" × ");
  const parameters = sizeOf(kernelShape(layer)) + (state.biased ? layer.outChannels : 0);
  const tiles = TOTALS.map((name) => {
    const [counted, bytes] = name.split(", ");
    return [counted!, brief(totals[name], bytes ? BYTES : COUNTS), `${grouped(totals[name])} ${bytes ?? ""}`];
  });
  return (
    <dl class="card cost-tiles">
      {[["output", shape, "images, channels, size"], ["parameters", brief(parameters, COUNTS), grouped(parameters)], ...tiles].map(
        ([name, value, exact]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <strong>{value}</strong>
              <span class="note">{exact}</span>
            </dd>
          </div>
        ),
      )}
    </dl>
  );
}
