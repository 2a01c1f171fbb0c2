/** The geometry and the values of a layer, to be set. */

import { signal } from "@preact/signals";
import { useRef } from "preact/hooks";
import {
  type Axis,
  type Fill,
  filled,
  type FillName,
  FILLS,
  inputShape,
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
import { BOUNDS, CHAPTER, groupChoices, LARGEST_VALUE, type LayerState } from "../../state";
import { layerState, setLayer, setLayerState } from "../../state/store";
import { Choice, Selection, Slider, Switch } from "../../parts/controls";
import { arrays } from "./layer_arrays";

const apart = signal(false);

export function LayerControls({ gradient = false }: { gradient?: boolean }) {
  const { layer } = layerState.value;
  return (
    <aside class="controls card" aria-label="The layer">
      <Channels layer={layer} />
      <Geometry layer={layer} />
      <Kind layer={layer} />
      <Values gradient={gradient} />
    </aside>
  );
}

function Channels({ layer }: { layer: Layer }) {
  const choices = groupChoices(layer);
  const place = choices.indexOf(layer.groups);
  const last = choices.length - 1;
  const depthwise = layer.groups === layer.inChannels && layer.inChannels > 1;
  const kind = layer.groups === 1 ? "dense" : depthwise ? "depthwise" : "grouped";
  return (
    <section>
      <h2>Channels</h2>
      <Slider
        label="Input"
        value={layer.inChannels}
        bounds={BOUNDS.channels}
        onChange={(inChannels) => setLayer({ inChannels })}
      />
      <Slider
        label="Output"
        value={layer.outChannels}
        bounds={BOUNDS.channels}
        onChange={(outChannels) => setLayer({ outChannels })}
      />
      <Slider
        label="Groups"
        value={place}
        bounds={[0, last]}
        shown={`${layer.groups}, ${kind}`}
        onChange={(value) => setLayer({ groups: choices[value]! })}
      />
      {!last && <p class="note">More groups need a common divisor of both channel counts, such as 4 and 4.</p>}
    </section>
  );
}

/** Return a layer with a change of one axis, or of both where rows and columns go together. */
function changedAxes(layer: Layer, which: "rows" | "columns" | "both", change: (axis: Axis) => Partial<Axis>): void {
  const changed = (axis: Axis): Axis => ({ ...axis, ...change(axis) });
  setLayer({
    rows: which === "columns" || layer.axes === 1 ? layer.rows : changed(layer.rows),
    columns: which === "rows" ? layer.columns : changed(layer.columns),
  });
}

function Geometry({ layer }: { layer: Layer }) {
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
        onChange={(axes) => setLayer(axes === "1" ? { axes: 1, rows: SINGLE } : { axes: 2, rows: twoAxes(layer.columns), columns: twoAxes(layer.columns) })}
      />
      <Switch
        label={layer.axes === 2 ? "Set rows, columns and sides apart" : "Set both sides apart"}
        checked={split || sides}
        onChange={(checked) => {
          apart.value = checked;
          if (checked) return;
          const axis = { ...layer.columns, after: layer.columns.before };
          setLayer({ columns: axis, rows: layer.axes === 1 ? SINGLE : axis });
        }}
      />
      {names.map((which) => (
        <AxisControls key={which} layer={layer} which={which} sides={sides} />
      ))}
      <div class="control buttons" role="group" aria-label="Padding by name">
        {(["valid", "same", "full"] as const).map((name) => (
          <button type="button" class="quiet" key={name} disabled={layer.transposed || !allowed(layer, name)} onClick={() => setNamed(layer, name)}>
            {name}
          </button>
        ))}
      </div>
      <Selection
        label="Padding mode"
        options={(layer.transposed ? (["zeros"] as const) : MODES).map((mode) => [mode, mode])}
        value={layer.mode}
        onChange={(mode) => setLayer({ mode })}
      />
    </section>
  );
}

const twoAxes = (axis: Axis): Axis => ({ ...axis, size: Math.min(axis.size, BOUNDS.size[1]) });

function allowed(layer: Layer, name: "valid" | "same" | "full"): boolean {
  const most = BOUNDS.padding[1];
  return [layer.rows, layer.columns].every((axis) => Math.max(...namedPadding(name, axis)) <= most);
}

function setNamed(layer: Layer, name: "valid" | "same" | "full"): void {
  changedAxes(layer, "both", (axis) => {
    const [before, after] = namedPadding(name, axis);
    return { before, after };
  });
}

function AxisControls({ layer, which, sides }: { layer: Layer; which: "rows" | "columns" | "both"; sides: boolean }) {
  const axis = which === "rows" ? layer.rows : layer.columns;
  const set = (change: Partial<Axis>): void => changedAxes(layer, which, () => change);
  const of = which === "both" ? "" : `, ${which}`;
  return (
    <>
      <Slider
        label={`Size of x${of}`}
        value={axis.size}
        bounds={layer.axes === 1 ? BOUNDS.length : BOUNDS.size}
        onChange={(size) => set({ size })}
      />
      <Slider label={`Kernel${of}`} value={axis.kernel} bounds={BOUNDS.kernel} onChange={(kernel) => set({ kernel })} />
      <Slider label={`Stride${of}`} value={axis.stride} bounds={BOUNDS.stride} onChange={(stride) => set({ stride })} />
      <Slider
        label={`Dilation${of}`}
        value={axis.dilation}
        bounds={BOUNDS.dilation}
        onChange={(dilation) => set({ dilation })}
      />
      {sides ? (
        <>
          <Slider
            label={`Padding before${of}`}
            value={axis.before}
            bounds={BOUNDS.padding}
            onChange={(before) => set({ before })}
          />
          <Slider
            label={`Padding after${of}`}
            value={axis.after}
            bounds={BOUNDS.padding}
            onChange={(after) => set({ after })}
          />
        </>
      ) : (
        <Slider
          label={`Padding${of}`}
          value={axis.before}
          bounds={BOUNDS.padding}
          onChange={(padding) => set({ before: padding, after: padding })}
        />
      )}
      {layer.transposed && (
        <Slider
          label={`Output padding${of}`}
          value={axis.outputPadding}
          bounds={[0, Math.max(axis.stride, axis.dilation) - 1]}
          onChange={(outputPadding) => set({ outputPadding })}
        />
      )}
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
