/** The view "Compute": a picture and a kernel, the result, and every engine measured and compared with float64. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Code } from "../../parts/code";
import { Choice, Slider } from "../../parts/controls";
import { counted, short } from "../../parts/numbers";
import { about, aboutProblem, askAbout, type Picture, pictureBlob, pictureNumbers, save, type Shades, wordsOf } from "../../server/client";
import { npyOf } from "../../server/npy";
import { PictureView, sharedView, ZoomButtons } from "../../server/picture";
import { type KernelNumbers, type Loaded, useKernel, usePicture } from "../../server/resources";
import { COMPUTE_BOUNDS } from "../../state";
import { computeState, setPart } from "../../state/store";
import { computeCommand, computePython, fileOf, isWritten } from "./compute_code";
import { ComputeControls, FIRST_DRAWN, lacksKernel } from "./compute_controls";
import { Crossover } from "./crossover";
import { EnginesCard, timeText } from "./engines";
import { KernelGrid, KernelMap } from "./kernel_grid";
import { isStale, pictureName, run, start } from "./run";

const view = sharedView();
type ShownAs = "picture" | "own" | "signed";
/** How the result is shown; null: as suits its values. */
const shownAs = signal<ShownAs | null>(null);

export function Compute() {
  const state = computeState.value;
  const kernel = useKernel(about.value && !lacksKernel(state.kernel) ? state.kernel : null);
  const picture = usePicture(pictureName.value || null);
  const isReady = about.value !== null && pictureName.value !== "";
  // The first visit shows a result; later ones those that are there.
  useEffect(() => {
    if (isReady && run.value === null && !lacksKernel(state.kernel)) start();
  }, [isReady]);
  return (
    <div class="view controls-first">
      <div class="main">
        <p class="lead">
          A picture and a kernel, computed by the library on your machine. <strong>Press “Compute”</strong> to see the result,
          and how long each engine takes.
        </p>
        {aboutProblem.value && (
          <div class="card" role="alert">
            <p class="refusal">{aboutProblem.value}</p>
            <button type="button" class="quiet" onClick={() => void askAbout()}>
              Try again
            </button>
          </div>
        )}
        <Pictures picture={picture} />
        <KernelCard kernel={kernel} />
        {run.value && <EnginesCard run={run.value} />}
        {run.value && <Crossover run={run.value} />}
        <Copies kernel={kernel.value} picture={picture.value} />
      </div>
      <ComputeControls kernel={kernel.value} />
    </div>
  );
}

/** Return the values that the picture shows as black and white. */
function rangeOf(picture: Picture): readonly [number, number] {
  return picture.dtype === "uint8" ? [0, 255] : [picture.least ?? 0, picture.largest ?? 1];
}

function isSigned(result: Picture, [low, high]: readonly [number, number]): boolean {
  return (result.least ?? 0) < low - (high - low) / 20;
}

function shadesOf(shown: ShownAs, [low, high]: readonly [number, number]): Shades {
  return shown === "picture" ? { low, high } : shown === "signed" ? { diverging: true } : {};
}

/** The picture, the result and their difference, enlarged and moved together. */
function Pictures({ picture }: { picture: Loaded<Picture> }) {
  const { value, problem } = picture;
  const found = run.value?.result;
  const isSame = run.value?.request.picture === value?.id;
  const before = value && (found && !isSame ? null : value);
  const range = value ? rangeOf(value) : ([0, 255] as const);
  const shown = shownAs.value ?? (found && isSigned(found.result, range) ? "signed" : "picture");
  return (
    <section class="card" aria-label="Picture and result">
      <div class="heading row">
        <h2>Picture and result</h2>
        <ZoomButtons view={view} />
      </div>
      {problem && (
        <p class="refusal" role="alert">
          {problem}
        </p>
      )}
      <div class="pictures">
        {value && <PictureView title="Picture" picture={value} view={view} />}
        {found && <PictureView title={isStale.value ? "Result before the change" : "Result"} picture={found.result} view={view} shades={shadesOf(shown, range)} />}
        {found?.difference && before && <PictureView title="Result less picture" picture={found.difference} view={view} shades={{ diverging: true }} />}
      </div>
      {found && !found.difference && <p class="note">No difference is shown: {found.why_no_difference}.</p>}
      {found && (
        <div class="row actions">
          <Choice<ShownAs>
            label="Result in"
            options={[
              ["picture", "the picture’s greys"],
              ["own", "its own range"],
              ["signed", "colours by sign"],
            ]}
            value={shown}
            onChange={(next) => (shownAs.value = next)}
          />
          <span class="note">
            {found.engine}: {timeText(found.seconds)}
            {found.strips > 1 && ` in ${counted(found.strips, "strip")} of rows`}
          </span>
          <span class="buttons">
            <SaveButton label="Save as PNG" name="result.png" load={async () => (await pictureBlob(found.result.id, shadesOf(shown, range))).blob} />
            <SaveButton label="Save as .npy" name="result.npy" load={async () => new Blob([await pictureNumbers(found.result.id)])} />
          </span>
        </div>
      )}
    </section>
  );
}

const saveProblem = signal("");

function SaveButton({ label, name, load }: { label: string; name: string; load: () => Promise<Blob> }) {
  const press = async (): Promise<void> => {
    saveProblem.value = "";
    try {
      save(await load(), name);
    } catch (problem) {
      saveProblem.value = wordsOf(problem);
    }
  };
  return (
    <button type="button" class="quiet" onClick={() => void press()}>
      {label}
    </button>
  );
}

/** The kernel's values: to be drawn or typed where they are given one by one. */
function KernelCard({ kernel }: { kernel: Loaded<KernelNumbers> }) {
  const choice = computeState.value.kernel;
  const own = "values" in choice ? choice.values : null;
  const values = own ?? kernel.value?.values ?? null;
  const set = (next: readonly (readonly number[])[]): void => setPart("compute", { kernel: { values: next } });
  const fits = values && Math.max(values.length, values[0]!.length) <= COMPUTE_BOUNDS.drawn[1];
  return (
    <section class="card" aria-label="Kernel">
      <h2>Kernel</h2>
      {kernel.problem && (
        <p class="refusal" role="alert">
          {kernel.problem}
        </p>
      )}
      {values && (
        <div class="kernel">
          {fits ? <KernelGrid values={values} {...(own && { onChange: set })} /> : <KernelMap values={values} />}
          <div class="kernel-facts">
            <p>
              {values.length} × {values[0]!.length}
              {kernel.value && (
                <>
                  , sum {short(kernel.value.sum)}, rank {kernel.value.rank}
                  {kernel.value.rank === 1 && ": a column times a row"}
                </>
              )}
              .
            </p>
            {own ? (
              <>
                <SizeSliders values={own} onChange={set} />
                <KernelText values={own} onChange={set} />
              </>
            ) : (
              Math.max(values.length, values[0]!.length) <= COMPUTE_BOUNDS.kernel[1] && (
                <button type="button" class="quiet" onClick={() => set(values)}>
                  Change these values
                </button>
              )
            )}
          </div>
        </div>
      )}
    </section>
  );
}

/** Return values with another number of rows and columns around the same middle; new ones are zero. */
function resized(values: readonly (readonly number[])[], rows: number, columns: number): number[][] {
  const [down, right] = [(rows >> 1) - (values.length >> 1), (columns >> 1) - (values[0]!.length >> 1)];
  return Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_, column) => values[row - down]?.[column - right] ?? 0));
}

interface ValuesProps {
  readonly values: readonly (readonly number[])[];
  readonly onChange: (values: readonly (readonly number[])[]) => void;
}

function SizeSliders({ values, onChange }: ValuesProps) {
  const [rows, columns] = [values.length, values[0]!.length];
  const most = COMPUTE_BOUNDS.drawn[1];
  if (Math.max(rows, columns) > most) return null;
  return (
    <>
      <Slider label="Rows" value={rows} bounds={COMPUTE_BOUNDS.drawn} onChange={(next) => onChange(resized(values, next, columns))} />
      <Slider label="Columns" value={columns} bounds={COMPUTE_BOUNDS.drawn} onChange={(next) => onChange(resized(values, rows, next))} />
      <div class="row">
        <button type="button" class="quiet" onClick={() => onChange(values.map((line) => line.map(() => 0)))}>
          All zero
        </button>
        <button type="button" class="quiet" onClick={() => onChange(FIRST_DRAWN)}>
          Sharpen
        </button>
      </div>
    </>
  );
}

const textProblem = signal("");

/** The values as nested lists, to be copied from and typed into. */
function KernelText({ values, onChange }: ValuesProps) {
  const store = (text: string): void => {
    const read = readRows(text);
    textProblem.value = typeof read === "string" ? read : "";
    if (typeof read !== "string") onChange(read);
  };
  return (
    <details class="values-text">
      <summary>Values as text</summary>
      <textarea
        rows={4}
        spellcheck={false}
        aria-label="Values as nested lists"
        aria-describedby="kernel-said"
        value={JSON.stringify(values).replaceAll("],[", "],\n [")}
        onChange={(event) => store(event.currentTarget.value)}
      />
      <p id="kernel-said" role="status" class="refusal">
        {textProblem.value}
      </p>
    </details>
  );
}

/** Read rows of numbers as nested lists; or return what is wrong, in words. */
function readRows(text: string): number[][] | string {
  let read: unknown;
  try {
    read = JSON.parse(text.slice(0, 100_000));
  } catch {
    return "This is no nested lists of numbers, such as [[0, 1, 0], [1, -4, 1], [0, 1, 0]].";
  }
  const most = COMPUTE_BOUNDS.kernel[1];
  const lines = Array.isArray(read) ? (read as unknown[]) : [];
  const isRow = (line: unknown): line is number[] =>
    Array.isArray(line) && line.length > 0 && line.length <= most && line.every((value) => typeof value === "number" && Math.abs(value) <= 1e30);
  if (!lines.length || lines.length > most || !lines.every(isRow)) {
    return `Expected 1 to ${most} rows of 1 to ${most} numbers each; larger kernels are uploaded as .npy.`;
  }
  return lines.every((line) => line.length === lines[0]!.length) ? lines : "The rows have different lengths; expected rows of one length.";
}

/** The computation as Python and as a command, with the files that they read. */
function Copies({ kernel, picture }: { kernel: KernelNumbers | null; picture: Picture | null }) {
  const name = pictureName.value;
  if (!kernel || !picture) return null;
  const state = computeState.value;
  const isBundled = about.value?.pictures.includes(name) ?? false;
  const needsKernel = !isWritten(kernel);
  return (
    <>
      <Code code={computePython(state, name, isBundled, kernel)} note={isBundled ? "" : "It reads the files that the buttons below save."} />
      <Code code={computeCommand(state, name, kernel, picture.shape.length > 2)} title="Copy as command" label="Command" note="It reads the files that the buttons below save, and computes in the type of their numbers." />
      <div class="row">
        <SaveButton label={`Save the picture as ${fileOf(name)}`} name={fileOf(name)} load={async () => new Blob([await pictureNumbers(name)])} />
        {needsKernel && <SaveButton label="Save the kernel as kernel.npy" name="kernel.npy" load={async () => new Blob([npyOf(kernel.values)])} />}
        <span role="alert" class="refusal">
          {saveProblem.value}
        </span>
      </div>
    </>
  );
}

