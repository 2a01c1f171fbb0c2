/** The net and the size of the picture of the view "Field", to be set. */

import { signal } from "@preact/signals";
import type { WindowLayer } from "../../core";
import { FIELD_BOUNDS, FIELD_PRESETS, type FieldPreset, type FieldState, FIRST_FIELD, presetOf, presetState } from "../../state";
import { fieldState, setField } from "../../state/store";
import { Choice, Selection, Slider } from "../../parts/controls";
import { layerName } from "./words";

/** Position of the layer whose geometry is set. */
const chosen = signal(0);

export function FieldControls() {
  const state = fieldState.value;
  const preset = presetOf(state);
  const options = (Object.keys(FIELD_PRESETS) as FieldPreset[]).map((name) => [name, FIELD_PRESETS[name][0]] as const);
  const choose = (name: FieldPreset | "own"): void => {
    if (name === "own") return;
    chosen.value = 0;
    setField(presetState(name));
  };
  return (
    <aside class="controls card" aria-label="The net">
      <section>
        <h2>The net</h2>
        <Selection<FieldPreset | "own">
          label="Example"
          options={preset ? options : [...options, ["own", "your own"]]}
          value={preset ?? "own"}
          onChange={choose}
        />
        <Layers state={state} />
      </section>
      <section>
        <Slider label="Size of x" value={state.size} bounds={FIELD_BOUNDS.size} onChange={(size) => setField({ size })} />
      </section>
      <section>
        <button type="button" class="quiet" onClick={() => (setField(FIRST_FIELD), (chosen.value = 0))}>
          Back to the first example
        </button>
      </section>
    </aside>
  );
}

function Layers({ state: { layers } }: { state: FieldState }) {
  const place = Math.min(chosen.value, layers.length - 1);
  const layer = layers[place]!;
  const set = (change: Partial<WindowLayer>): void =>
    setField({ layers: layers.map((other, n) => (n === place ? { ...other, ...change } : other)) });
  const slider = (label: string, key: "kernel" | "stride" | "padding" | "dilation") => (
    <Slider label={label} value={layer[key]} bounds={FIELD_BOUNDS[key]} onChange={(value) => set({ [key]: value })} />
  );
  const add = (): void => {
    setField({ layers: [...layers.slice(0, place + 1), layer, ...layers.slice(place + 1)] });
    chosen.value = place + 1;
  };
  const remove = (): void => {
    setField({ layers: layers.filter((_, n) => n !== place) });
    chosen.value = Math.max(place - 1, 0);
  };
  return (
    <>
      <fieldset class="control layers">
        <legend>Layers, from the picture on</legend>
        {layers.map((other, n) => (
          <label key={n}>
            <input type="radio" name="layer" value={n} checked={n === place} onChange={() => (chosen.value = n)} />
            <span>
              {n + 1}: {layerName(other)}
            </span>
          </label>
        ))}
      </fieldset>
      <div class="control buttons">
        <button type="button" class="quiet" disabled={layers.length === FIELD_BOUNDS.layers[1]} onClick={add}>
          Repeat layer {place + 1}
        </button>
        <button type="button" class="quiet" disabled={layers.length === FIELD_BOUNDS.layers[0]} onClick={remove}>
          Remove it
        </button>
      </div>
      <Choice
        label={`Layer ${place + 1}`}
        options={[
          ["conv", "convolution"],
          ["pool", "pooling"],
        ]}
        value={layer.kind}
        onChange={(kind) => set({ kind })}
      />
      {slider("Kernel", "kernel")}
      {slider("Stride", "stride")}
      {slider("Padding", "padding")}
      {slider("Dilation", "dilation")}
    </>
  );
}
