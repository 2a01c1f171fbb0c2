/** The convolutions of the view "Fold", to be set. */

import { type Fill, type FillName, FILLS, MODES, named } from "../../core";
import { ARRANGEMENTS, type BlockState, FIRST_FOLD, FOLD_BOUNDS, ORDINALS, withBlocks } from "../../state";
import { foldState, setBlock, setFold } from "../../state/store";
import { Choice, Selection, Slider, Switch } from "../../parts/controls";
import { FILL_WORDS } from "../layer/layer_controls";

const ARRANGEMENT_WORDS = { row: "in a row", branches: "as branches" } as const;

export function FoldControls() {
  const state = foldState.value;
  const row = state.arrangement === "row";
  const count = state.blocks.length;
  const channels = (label: string, place: number) => (
    <Slider
      label={label}
      value={state.channels[place]!}
      bounds={FOLD_BOUNDS.channels}
      onChange={(value) => setFold({ channels: state.channels.map((own, n) => (n === place ? value : own)) })}
    />
  );
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
        <Choice
          label="Number"
          options={[
            ["2", "two"],
            ["3", "three"],
          ]}
          value={count === 3 ? "3" : "2"}
          onChange={(value) => setFold(withBlocks(state, Number(value)))}
        />
        {row ? (
          <Switch label={count === 2 ? "ReLU between the two" : "ReLUs between them"} checked={state.relu} onChange={(relu) => setFold({ relu })} />
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
        {channels("Input channels", 0)}
        {row && channels(count === 2 ? "Hidden channels" : "Hidden 1", 1)}
        {row && count === 3 && channels("Hidden 2", 2)}
        {channels("Output channels", count)}
      </section>
      {state.blocks.map((block, n) => (
        <BlockControls key={n} block={block} place={n} />
      ))}
      <section>
        <button type="button" class="quiet" onClick={() => setFold(FIRST_FOLD)}>
          Back to the first example
        </button>
      </section>
    </aside>
  );
}

function BlockControls({ block, place }: { block: BlockState; place: number }) {
  const name = ORDINALS[place]!;
  const set = (change: Partial<BlockState>): void => setBlock(place, change);
  const slider = (label: string, key: "kernel" | "stride" | "padding" | "dilation") => (
    <Slider label={`${label}, ${name}`} value={block[key]} bounds={FOLD_BOUNDS[key]} onChange={(value) => set({ [key]: value })} />
  );
  return (
    <section>
      <h2>The {name} convolution</h2>
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
