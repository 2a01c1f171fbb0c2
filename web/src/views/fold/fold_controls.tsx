/** The two convolutions of the view "Fold", to be set. */

import { type Fill, type FillName, FILLS, MODES, named } from "../../core";
import { ARRANGEMENTS, type BlockState, FIRST_FOLD, FOLD_BOUNDS, type FoldState } from "../../state";
import { foldState, setFold } from "../../state/store";
import { Choice, Selection, Slider, Switch } from "../../parts/controls";
import { FILL_WORDS } from "../layer/layer_controls";

const ARRANGEMENT_WORDS = { row: "in a row", branches: "as branches" } as const;

export function FoldControls() {
  const state = foldState.value;
  const row = state.arrangement === "row";
  const channels = (place: 0 | 1 | 2) => (value: number): void => {
    const next = [...state.channels] as [number, number, number];
    next[place] = value;
    setFold({ channels: next });
  };
  return (
    <aside class="controls card" aria-label="The convolutions">
      <section>
        <h2>Arrangement</h2>
        <Choice
          label="Placed"
          options={ARRANGEMENTS.map((name) => [name, ARRANGEMENT_WORDS[name]])}
          value={state.arrangement}
          onChange={(arrangement) => setFold({ arrangement })}
        />
        {row ? (
          <Switch label="ReLU between the two" checked={state.relu} onChange={(relu) => setFold({ relu })} />
        ) : (
          <Switch label="Add the input itself" checked={state.skip} onChange={(skip) => setFold({ skip })} />
        )}
        <Slider label="Size of x" value={state.size} bounds={FOLD_BOUNDS.size} onChange={(size) => setFold({ size })} />
        <FillSelection label="Input x" fill={state.x} onChange={(x) => setFold({ x })} />
        <Selection
          label="Padding mode"
          options={MODES.map((mode) => [mode, mode])}
          value={state.mode}
          onChange={(mode) => setFold({ mode })}
        />
        <Slider label="Input channels" value={state.channels[0]} bounds={FOLD_BOUNDS.channels} onChange={channels(0)} />
        {row && <Slider label="Hidden channels" value={state.channels[1]} bounds={FOLD_BOUNDS.channels} onChange={channels(1)} />}
        <Slider label="Output channels" value={state.channels[2]} bounds={FOLD_BOUNDS.channels} onChange={channels(2)} />
      </section>
      <BlockControls state={state} place={0} />
      <BlockControls state={state} place={1} />
      <section>
        <button type="button" class="quiet" onClick={() => setFold(FIRST_FOLD)}>
          Back to the first example
        </button>
      </section>
    </aside>
  );
}

function BlockControls({ state, place }: { state: FoldState; place: 0 | 1 }) {
  const block = state.blocks[place];
  const name = place === 0 ? "first" : "second";
  const set = (change: Partial<BlockState>): void => {
    const changed = { ...block, ...change };
    setFold({ blocks: place === 0 ? [changed, state.blocks[1]] : [state.blocks[0], changed] });
  };
  const slider = (label: string, key: "kernel" | "stride" | "padding" | "dilation") => (
    <Slider label={`${label}, ${name}`} value={block[key]} bounds={FOLD_BOUNDS[key]} onChange={(value) => set({ [key]: value })} />
  );
  return (
    <section>
      <h2>{place === 0 ? "First convolution" : "Second convolution"}</h2>
      {slider("Kernel", "kernel")}
      {slider("Padding", "padding")}
      {slider("Stride", "stride")}
      {slider("Dilation", "dilation")}
      <FillSelection label={`Values, ${name}`} fill={block.k} onChange={(k) => set({ k })} />
      <Switch
        label={`Bias, ${name}`}
        checked={block.bias !== null}
        onChange={(checked) => set({ bias: checked ? named("ones") : null })}
      />
    </section>
  );
}

function FillSelection({ label, fill, onChange }: { label: string; fill: Fill; onChange: (fill: Fill) => void }) {
  const value = "given" in fill ? "given" : fill.name;
  const options = FILLS.map((name) => [name, FILL_WORDS[name]] as const);
  return (
    <div class="fill">
      <Selection<FillName | "given">
        label={label}
        options={value === "given" ? [...options, ["given", "as entered"] as const] : options}
        value={value}
        onChange={(chosen) => chosen !== "given" && onChange(named(chosen))}
      />
      {"seed" in fill && fill.name === "random" && (
        <button type="button" class="quiet" onClick={() => onChange(named("random", (fill.seed + 1) % 1e9))}>
          Draw again
        </button>
      )}
    </div>
  );
}
