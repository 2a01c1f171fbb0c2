/** The geometry and the values of a layer, to be set. */

import { signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useRef } from "preact/hooks";
import {
  type Axis,
  type Fill,
  filled,
  type FillName,
  FILLS,
  inputShape,
  isDepthwise,
  kernelShape,
  type Layer,
  MODES,
  named,
  namedPadding,
  nested,
  outputShape,
  SINGLE,
  sizeOf,
  tensor,
} from "../../core";
import { type Bounds, BOUNDS, CHAPTER, groupChoices, LARGEST_VALUE, type LayerState } from "../../state";
import { layerState, setLayer, setLayerState } from "../../state/store";
import { Choice, Selection, Slider, Switch } from "../../parts/controls";
import { arrays } from "./layer_arrays";

const apart = signal(false);

/** How the controls of a layer set it, within which bounds, by which sliders. */
interface Setting {
  readonly set: (change: Partial<Layer>) => void;
  readonly bounds: Readonly<Record<"channels" | "size" | "length" | "kernel" | "stride" | "padding" | "dilation", Bounds>>;
  readonly Slide: ComponentType<{ label: string; value: number; bounds: Bounds; onChange: (value: number) => void }>;
}

type SettingOf = Setting & { readonly layer: Layer };

const LOOK: Setting = { set: setLayer, bounds: BOUNDS, Slide: Slider };

export function LayerControls({ gradient = false }: { gradient?: boolean }) {
  const { layer } = layerState.value;
  return (
    <aside class="controls card" aria-label="The layer">
      <Channels layer={layer} {...LOOK} />
      <Geometry layer={layer} {...LOOK} />
      <Kind layer={layer} />
      <Values gradient={gradient} />
    </aside>
  );
}

export function Channels({ layer, set, bounds, Slide }: SettingOf) {
  const choices = groupChoices(layer);
  const place = choices.indexOf(layer.groups);
  const last = choices.length - 1;
  const kind = layer.groups === 1 ? "dense" : isDepthwise(layer) ? "depthwise" : "grouped";
  return (
    <section>
      <h2>Channels</h2>
      <Slide label="Input" value={layer.inChannels} bounds={bounds.channels} onChange={(inChannels) => set({ inChannels })} />
      <Slide
        label="Output"
        value={layer.outChannels}
        bounds={bounds.channels}
        onChange={(outChannels) => set({ outChannels })}
      />
      <Slider
        label="Groups"
        value={place}
        bounds={[0, last]}
        shown={`${layer.groups}, ${kind}`}
        onChange={(value) => set({ groups: choices[value]! })}
      />
      {!last && <p class="note">More groups need a common divisor of both channel counts, such as 4 and 4.</p>}
    </section>
  );
}

/** Return a change of one axis of a layer, or of both where rows and columns go together. */
function changedAxes(
  layer: Layer,
  which: "rows" | "columns" | "both",
  change: (axis: Axis) => Partial<Axis>,
): Pick<Layer, "rows" | "columns"> {
  const changed = (axis: Axis): Axis => ({ ...axis, ...change(axis) });
  return {
    rows: which === "columns" || layer.axes === 1 ? layer.rows : changed(layer.rows),
    columns: which === "rows" ? layer.columns : changed(layer.columns),
  };
}

export function Geometry({ layer, ...setting }: SettingOf) {
  const { set, bounds } = setting;
  const differ = layer.axes === 2 && JSON.stringify(layer.rows) !== JSON.stringify(layer.columns);
  const uneven = [layer.rows, layer.columns].some((axis) => axis.before !== axis.after);
  const split = layer.axes === 2 && (apart.value || differ);
  const sides = apart.value || uneven;
  const names = split ? (["rows", "columns"] as const) : (["both"] as const);
  return (
    <section>
      <h2>Geometry</h2>
      <Choice
        label="Axes"
        options={[
          ["1", "1-d"],
          ["2", "2-d"],
        ]}
        value={String(layer.axes) as "1" | "2"}
        onChange={(axes) => {
          const columns = { ...layer.columns, size: Math.min(layer.columns.size, bounds.size[1]) };
          set(axes === "1" ? { axes: 1, rows: SINGLE } : { axes: 2, rows: columns, columns });
        }}
      />
      <Switch
        label={layer.axes === 2 ? "Set rows, columns and sides apart" : "Set both sides apart"}
        checked={split || sides}
        onChange={(checked) => {
          apart.value = checked;
          if (checked) return;
          const axis = { ...layer.columns, after: layer.columns.before };
          set({ columns: axis, rows: layer.axes === 1 ? SINGLE : axis });
        }}
      />
      {names.map((which) => (
        <AxisControls key={which} layer={layer} which={which} sides={sides} {...setting} />
      ))}
      <div class="control buttons" role="group" aria-label="Padding by name">
        {(["valid", "same", "full"] as const).map((name) => (
          <button type="button" class="quiet" key={name} disabled={layer.transposed || !allowed(layer, name, bounds.padding)} onClick={() => set(withNamed(layer, name))}>
            {name}
          </button>
        ))}
      </div>
      <Selection
        label="Padding mode"
        options={(layer.transposed ? (["zeros"] as const) : MODES).map((mode) => [mode, mode])}
        value={layer.mode}
        onChange={(mode) => set({ mode })}
      />
    </section>
  );
}

type PaddingName = "valid" | "same" | "full";

function allowed(layer: Layer, name: PaddingName, [, most]: Bounds): boolean {
  return [layer.rows, layer.columns].every((axis) => Math.max(...namedPadding(name, axis)) <= most);
}

function withNamed(layer: Layer, name: PaddingName): Partial<Layer> {
  return changedAxes(layer, "both", (axis) => {
    const [before, after] = namedPadding(name, axis);
    return { before, after };
  });
}

type AxisControlsProps = SettingOf & { readonly which: "rows" | "columns" | "both"; readonly sides: boolean };

function AxisControls({ layer, which, sides, set, bounds, Slide }: AxisControlsProps) {
  const axis = which === "rows" ? layer.rows : layer.columns;
  const of = which === "both" ? "" : `, ${which}`;
  const slider = (label: string, key: keyof Axis, limits: Bounds, also?: keyof Axis) => (
    <Slide
      label={label + of}
      value={axis[key]}
      bounds={limits}
      onChange={(value) => set(changedAxes(layer, which, () => ({ [key]: value, ...(also ? { [also]: value } : {}) })))}
    />
  );
  return (
    <>
      {slider("Size of x", "size", layer.axes === 1 ? bounds.length : bounds.size)}
      {slider("Kernel", "kernel", bounds.kernel)}
      {slider("Stride", "stride", bounds.stride)}
      {slider("Dilation", "dilation", bounds.dilation)}
      {sides ? (
        <>
          {slider("Padding before", "before", bounds.padding)}
          {slider("Padding after", "after", bounds.padding)}
        </>
      ) : (
        slider("Padding", "before", bounds.padding, "after")
      )}
      {layer.transposed && slider("Output padding", "outputPadding", [0, Math.max(axis.stride, axis.dilation) - 1])}
    </>
  );
}

function Kind({ layer }: { layer: Layer }) {
  return (
    <section>
      <h2>Operation</h2>
      <Choice
        label="Kernel"
        options={[
          ["correlate", "as it is"],
          ["convolve", "flipped"],
        ]}
        value={layer.flip ? "convolve" : "correlate"}
        onChange={(value) => setLayer({ flip: value === "convolve" })}
      />
      <p class="note">
        {layer.flip ? "A convolution in the mathematical sense." : "A correlation, which deep learning calls a convolution."}
      </p>
      <Switch label="Transposed" checked={layer.transposed} onChange={(transposed) => setLayer({ transposed })} />
    </section>
  );
}

export const FILL_WORDS: Record<FillName, string> = {
  count: "counting up",
  ones: "all ones",
  random: "random",
  impulse: "a single one",
  mean: "a mean",
  edges: "a derivative",
  step: "a step",
  zeros: "all zeros",
};

type FillKey = "x" | "k" | "bias" | "dy";

function Values({ gradient }: { gradient: boolean }) {
  const { layer, bias } = layerState.value;
  const drawn = arrays.value !== null;
  return (
    <section>
      <h2>Values</h2>
      <FillControl name="x" label="Input x" shape={inputShape(layer)} hidden={[]} />
      <FillControl name="k" label="Kernel k" shape={kernelShape(layer)} hidden={[]} />
      <Switch
        label="Bias b"
        checked={bias !== null}
        onChange={(checked) => setLayerState({ bias: checked ? named("ones") : null })}
      />
      {bias && <FillControl name="bias" label="Values of b" shape={[layer.outChannels]} hidden={["impulse", "mean", "edges", "step"]} />}
      {gradient && drawn && <FillControl name="dy" label="Gradient dy" shape={outputShape(layer)} hidden={[]} />}
      <button type="button" class="quiet" onClick={() => setLayerState(CHAPTER)}>
        Back to the chapter’s example
      </button>
    </section>
  );
}

interface FillProps {
  readonly name: FillKey;
  readonly label: string;
  readonly shape: readonly number[];
  readonly hidden: readonly FillName[];
}

function FillControl({ name, label, shape, hidden }: FillProps) {
  const fill = layerState.value[name] as Fill;
  const set = (value: Fill): void => setLayerState({ [name]: value } as Partial<LayerState>);
  const value = "given" in fill ? "given" : fill.name;
  const options = FILLS.filter((other) => !hidden.includes(other)).map((other) => [other, FILL_WORDS[other]] as const);
  return (
    <>
      <div class="fill">
        <Selection<FillName | "given">
          label={label}
          options={value === "given" ? [...options, ["given", "as entered"] as const] : options}
          value={value}
          onChange={(chosen) => chosen !== "given" && set(named(chosen))}
        />
        {"seed" in fill && fill.name === "random" && (
          <button type="button" class="quiet" onClick={() => set(named("random", (fill.seed + 1) % 1e9))}>
            Draw again
          </button>
        )}
      </div>
      <ValuesText {...{ name, label, shape, fill, set }} />
    </>
  );
}

/** The values as nested lists, to be read and replaced. */
function ValuesText({ label, shape, fill, set, name }: Omit<FillProps, "hidden"> & { fill: Fill; set: (value: Fill) => void }) {
  const field = useRef<HTMLTextAreaElement>(null);
  const said = useRef(signal("")).current;
  const text = JSON.stringify(nested(filled(fill, shape), droppedAxes(shape)));
  const store = (): void => {
    const read = readValues(field.current!.value, shape);
    said.value = typeof read === "string" ? read : "";
    if (typeof read !== "string") set(read);
  };
  return (
    <details class="values-text">
      <summary>{label} as text</summary>
      <textarea
        ref={field}
        rows={4}
        spellcheck={false}
        aria-label={`${label} as nested lists`}
        aria-describedby={`said-${name}`}
        value={text}
        onChange={store}
      />
      <p class="refusal" id={`said-${name}`} role="status">
        {said.value}
      </p>
    </details>
  );
}

/** Return the axis of the rows, if the layer has a single axis; nested lists leave it out. */
export function droppedAxes(shape: readonly number[]): number[] {
  return layerState.value.layer.axes === 1 && shape.length > 1 ? [shape.length - 2] : [];
}

/** Read nested lists of numbers for a shape, or say what is wrong with them. */
export function readValues(text: string, shape: readonly number[]): Fill | string {
  let numbers: unknown[];
  try {
    numbers = [JSON.parse(text.length > 200_000 ? "" : text)].flat(Infinity);
  } catch {
    return "These are no nested lists of numbers, such as [[1, 2], [3, 4]].";
  }
  if (!numbers.every((n) => typeof n === "number" && Number.isFinite(n) && Math.abs(n) <= LARGEST_VALUE)) {
    return "Every entry must be a number between −1e100 and 1e100.";
  }
  if (numbers.length !== sizeOf(shape)) {
    return `There are ${numbers.length} numbers; the shape ${shape.join(" × ")} takes ${sizeOf(shape)}.`;
  }
  return { given: tensor(shape, numbers as number[]) };
}
