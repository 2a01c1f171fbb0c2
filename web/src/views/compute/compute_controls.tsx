/** The picture, the kernel and the options of the view "Compute", to be set. */

import { useId } from "preact/hooks";
import { about, type Argument, fileNames } from "../../server/client";
import { JobStatus } from "../../server/job";
import { type KernelNumbers, Upload } from "../../server/resources";
import {
  COMPUTE_ACCURACIES,
  COMPUTE_BOUNDS,
  COMPUTE_DTYPES,
  COMPUTE_MODES,
  COMPUTE_PADDINGS,
  type ComputeState,
  FIRST_COMPUTE,
  type KernelChoice,
} from "../../state";
import { computeState, setPart } from "../../state/store";
import { Selection, Slider, Switch } from "../../parts/controls";
import { short } from "../../parts/numbers";
import { isStale, job, pictureName, start } from "./run";

/** Return whether a kernel is to come from a file that is not chosen yet. */
export function lacksKernel(kernel: KernelChoice): boolean {
  return "picture" in kernel && kernel.picture === "";
}

function set(change: Partial<ComputeState>): void {
  setPart("compute", change);
}

const DTYPE_WORDS = {
  float32: "float32",
  float64: "float64",
  float16: "float16",
  int32: "int32: whole numbers, exact",
} as const;

const ACCURACY_WORDS = {
  default: "default",
  exact: "exact: direct sums",
  fast: "fast: larger errors allowed",
  double: "double: sums in float64",
} as const;

export function ComputeControls({ kernel }: { kernel: KernelNumbers | null }) {
  const state = computeState.value;
  return (
    <aside class="controls card" aria-label="Picture, kernel and options">
      <section class="go">
        <button type="button" disabled={!about.value || lacksKernel(state.kernel)} onClick={start}>
          Compute
        </button>
        {isStale.value && !job.isActive.value && <p class="note">The settings have changed since.</p>}
        <JobStatus job={job} done="Done." />
      </section>
      <PictureControls />
      <KernelControls kernel={kernel} />
      <section>
        <h2>Options</h2>
        <Selection label="Padding" options={COMPUTE_PADDINGS.map((name) => [name, name])} value={state.padding} onChange={(padding) => set({ padding })} />
        {state.padding !== "valid" && (
          <Selection label="Padding mode" options={COMPUTE_MODES.map((name) => [name, name])} value={state.mode} onChange={(mode) => set({ mode })} />
        )}
        <Slider label="Stride" value={state.stride} bounds={COMPUTE_BOUNDS.step} onChange={(stride) => set({ stride })} />
        <Slider label="Dilation" value={state.dilation} bounds={COMPUTE_BOUNDS.step} onChange={(dilation) => set({ dilation })} />
        <Selection label="Data type" options={COMPUTE_DTYPES.map((name) => [name, DTYPE_WORDS[name]])} value={state.dtype} onChange={(dtype) => set({ dtype })} />
        <Selection
          label="Accuracy"
          options={COMPUTE_ACCURACIES.map((name) => [name, ACCURACY_WORDS[name]])}
          value={state.accuracy}
          onChange={(accuracy) => set({ accuracy })}
        />
        <Switch label="Flip the kernel (convolve)" checked={state.flip} onChange={(flip) => set({ flip })} />
        <p>
          <button type="button" class="quiet" onClick={() => set(FIRST_COMPUTE)}>
            Back to the first example
          </button>
        </p>
      </section>
    </aside>
  );
}

function PictureControls() {
  const names = about.value?.pictures ?? [];
  const name = pictureName.value;
  const isBundled = names.includes(name);
  const options = isBundled || !name ? names : [...names, name];
  return (
    <section>
      <h2>Picture</h2>
      <Selection
        label="Picture"
        options={options.map((one) => [one, names.includes(one) ? one : (fileNames.get(one) ?? "uploaded")])}
        value={name}
        onChange={(picture) => set({ picture })}
      />
      <Upload label="Your own picture" onPicture={(picture) => set({ picture: picture.id })} />
      {!isBundled && name && (
        <p class="note">An uploaded picture is in this server’s memory only: the address shows it until the server ends.</p>
      )}
    </section>
  );
}

type Source = "preset" | "typed" | "uploaded";

const SOURCE_WORDS = { preset: "by its name", typed: "drawn", uploaded: "from a file" } as const;

function sourceOf(kernel: KernelChoice): Source {
  return "preset" in kernel ? "preset" : "values" in kernel ? "typed" : "uploaded";
}

/** A sharpening kernel, for a start. */
export const FIRST_DRAWN: readonly (readonly number[])[] = [
  [0, -1, 0],
  [-1, 5, -1],
  [0, -1, 0],
];

/** Return a kernel's values if they are few enough to be typed. */
export function typed(kernel: KernelNumbers | null): readonly (readonly number[])[] {
  return kernel && Math.max(...kernel.shape) <= COMPUTE_BOUNDS.kernel[1] ? kernel.values : FIRST_DRAWN;
}

function KernelControls({ kernel }: { kernel: KernelNumbers | null }) {
  const choice = computeState.value.kernel;
  const source = sourceOf(choice);
  const change = (next: Source): void => {
    if (next === "preset") set({ kernel: FIRST_COMPUTE.kernel });
    else if (next === "typed") set({ kernel: { values: typed(kernel) } });
    else set({ kernel: { picture: "" } });
  };
  return (
    <section>
      <h2>Kernel</h2>
      <Selection
        label="Given"
        options={(["preset", "typed", "uploaded"] as const).map((name) => [name, SOURCE_WORDS[name]])}
        value={source}
        onChange={change}
      />
      {"preset" in choice && <PresetControls choice={choice} />}
      {"values" in choice && <p class="note">Draw or type its values in the card “Kernel”.</p>}
      {"picture" in choice && (
        <Upload label="File of the kernel" accept=".npy,.png" onPicture={(picture) => set({ kernel: { picture: picture.id } })} />
      )}
    </section>
  );
}

function PresetControls({ choice }: { choice: Extract<KernelChoice, { preset: string }> }) {
  const presets = about.value?.presets ?? {};
  const names = Object.keys(presets);
  const allowed = Object.hasOwn(presets, choice.preset) ? presets[choice.preset]! : {};
  const shown = names.includes(choice.preset) ? names : [...names, choice.preset];
  const give = (name: string, value: number | null): void => {
    const given = { ...choice.arguments };
    if (value === null || value === allowed[name]?.default) delete given[name];
    else given[name] = value;
    set({ kernel: { preset: choice.preset, arguments: given } });
  };
  return (
    <>
      <Selection
        label="Name"
        options={shown.map((name) => [name, name.replaceAll("_", " ")])}
        value={choice.preset}
        onChange={(preset) => set({ kernel: { preset, arguments: {} } })}
      />
      {Object.entries(allowed).map(([name, argument]) => (
        <ArgumentSlider key={`${choice.preset}.${name}`} name={name} argument={argument} value={choice.arguments[name] ?? argument.default} onChange={(value) => give(name, value)} />
      ))}
    </>
  );
}

interface ArgumentSliderProps {
  readonly name: string;
  readonly argument: Argument;
  /** Null: left to the library. */
  readonly value: number | null;
  readonly onChange: (value: number | null) => void;
}

/** Steps of a slider for a real number. */
const STEPS = 400;

/** A slider for an argument of a kernel: positive ranges of more than a decade are moved along by factors. */
function ArgumentSlider({ name, argument, value, onChange }: ArgumentSliderProps) {
  const { least, most, whole } = argument;
  const auto = useId();
  const byFactors = !whole && least > 0 && most / least > 10;
  const toStep = (number: number): number =>
    whole ? number : Math.round(STEPS * (byFactors ? Math.log(number / least) / Math.log(most / least) : (number - least) / (most - least)));
  const toValue = (step: number): number => {
    if (whole) return step;
    const exact = byFactors ? least * (most / least) ** (step / STEPS) : least + ((most - least) * step) / STEPS;
    return Math.min(Math.max(Number(exact.toPrecision(3)), least), most);
  };
  const label = name.charAt(0).toUpperCase() + name.slice(1);
  const isFree = argument.default === null;
  return (
    <div class="argument">
      <Slider
        label={label}
        value={value === null ? toStep(whole ? Math.min(Math.max(9, least), most) : Math.sqrt(least * most)) : toStep(value)}
        bounds={whole ? [least, most] : [0, STEPS]}
        shown={value === null ? "auto" : short(value)}
        onChange={(step) => onChange(toValue(step))}
      />
      {isFree && value !== null && (
        <button type="button" class="quiet small" id={auto} onClick={() => onChange(null)} aria-label={`${label}: leave it to the library`}>
          auto
        </button>
      )}
    </div>
  );
}
