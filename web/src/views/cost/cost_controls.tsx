/** The layer of the view "Cost", to be set. */

import type { Layer } from "../../core";
import { COST_BOUNDS, DTYPES, FIRST_COST, withLayer } from "../../state";
import { costState, setPart } from "../../state/store";
import { Selection, Switch } from "../../parts/controls";
import { NumberSlider } from "../../parts/number_slider";
import { Channels, Geometry } from "../layer/layer_controls";

export function setCostLayer(change: Partial<Layer>): void {
  setPart("cost", withLayer(costState.value, change));
}

const SETTING = { set: setCostLayer, bounds: { ...COST_BOUNDS, length: COST_BOUNDS.size }, Slide: NumberSlider };

export function CostControls() {
  const { layer, batch, biased, dtype, inputGradient } = costState.value;
  return (
    <aside class="controls card" aria-label="The layer">
      <Channels layer={layer} {...SETTING} />
      <Geometry layer={layer} {...SETTING} />
      <section>
        <h2>Numbers</h2>
        <NumberSlider label="Batch" value={batch} bounds={COST_BOUNDS.batch} onChange={(n) => setPart("cost", { batch: n })} />
        <Selection
          label="Dtype"
          options={DTYPES.map((name) => [name, name])}
          value={dtype}
          onChange={(name) => setPart("cost", { dtype: name })}
        />
        <Switch label="Bias" checked={biased} onChange={(checked) => setPart("cost", { biased: checked })} />
        <Switch
          label="First layer: its input needs no gradient"
          checked={!inputGradient}
          onChange={(checked) => setPart("cost", { inputGradient: !checked })}
        />
        <button type="button" class="quiet" onClick={() => setPart("cost", FIRST_COST)}>
          Back to the first example
        </button>
      </section>
    </aside>
  );
}
