/** The chapter's third exercise: a dimension of the layer multiplied, with the factor of each count and its reason. */

import type { ComponentChildren } from "preact";
import { type Axis, type Change, changedLayer, type CostOptions, type Layer, TOTALS, type Totals, totalsOf } from "../../core";
import { CHANGE_NAMES, COST_BOUNDS } from "../../state";
import { setPart } from "../../state/store";
import { grouped } from "../../parts/numbers";
import { setCostLayer } from "./cost_controls";
import { factorOf, reasonOf } from "./cost_reasons";

const CHANNELS = (
  <>
    <var>
      c<sub>i</sub>
    </var>{" "}
    and{" "}
    <var>
      c<sub>o</sub>
    </var>
  </>
);

const LABELS: Record<Change, ComponentChildren> = {
  channels2: <>Double {CHANNELS}</>,
  channels3: <>Triple {CHANNELS}</>,
  padding2: "Double the padding",
  size2: "Double the size of x",
  stride2: "Double the stride",
};

/** Return whether the controls can hold a layer. */
function settable({ inChannels, outChannels, rows, columns }: Layer): boolean {
  const within = (key: keyof typeof COST_BOUNDS, value: number): boolean => value <= COST_BOUNDS[key][1];
  const axisFits = (axis: Axis): boolean =>
    within("size", axis.size) && within("stride", axis.stride) && within("padding", Math.max(axis.before, axis.after));
  return within("channels", Math.max(inChannels, outChannels)) && axisFits(rows) && axisFits(columns);
}

interface ChangesProps {
  readonly layer: Layer;
  readonly before: Totals;
  readonly options: CostOptions;
  readonly change: Change;
}

export function Changes({ layer, before, options, change }: ChangesProps) {
  const changed = changedLayer(layer, change);
  const after = totalsOf(changed, options);
  const fits = settable(changed);
  return (
    <section class="card" aria-label="What if">
      <h2>What if …</h2>
      <div class="row" role="group" aria-label="Changes">
        {CHANGE_NAMES.map((name) => (
          <button
            type="button"
            class={name === change ? "" : "quiet"}
            aria-pressed={name === change}
            key={name}
            onClick={() => setPart("cost", { change: name })}
          >
            {LABELS[name]}
          </button>
        ))}
      </div>
      <p role="status">
        <strong class="cost-factor">{factorOf(before["forward multiplications"], after["forward multiplications"])}</strong> the
        multiplications. {reasonOf(layer, changed, change, options.convention, before, after)}
      </p>
      <div class="scroll" tabIndex={0} role="group" aria-label="Counts before and after">
        <table>
          <thead>
            <tr>
              <th scope="col">count</th>
              {["before", "after", "factor"].map((name) => (
                <th scope="col" class="number" key={name}>
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {TOTALS.map((name) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="number">{grouped(before[name])}</td>
                <td class="number">{grouped(after[name])}</td>
                <td class="number">{factorOf(before[name], after[name])}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="row cost-apply">
        <button type="button" class="quiet" disabled={!fits} onClick={() => setCostLayer(changed)}>
          Apply to the layer
        </button>
        {!fits && <span class="note">The layer would be larger than the sliders reach.</span>}
      </div>
    </section>
  );
}
