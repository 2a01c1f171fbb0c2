/** The two pictures of a fit: an example that the page makes, or pictures that are bundled or uploaded. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { FIT_EXAMPLES, type FitExample } from "../../state";
import { fitState, setFit } from "../../state/store";
import { about, fileNames, pictureNumbers, save, wordsOf } from "../../server/client";
import { JobStatus } from "../../server/job";
import { PictureView, sharedView, ZoomButtons } from "../../server/picture";
import { Upload, usePicture } from "../../server/resources";
import { Choice, Selection } from "../../parts/controls";
import { example, exampleJob, examplePicture, exampleProblem, makeExample, pair } from "./fit_jobs";

const EXAMPLE_WORDS: Record<FitExample, string> = {
  motion: "a motion of 5 pixels",
  gaussian: "a Gaussian blur",
  disk: "a lens out of focus",
};

const view = sharedView();

export function FitPictures() {
  const { source } = fitState.value;
  return (
    <section class="card" aria-label="The two pictures">
      <div class="row heading">
        <h2>The two pictures</h2>
        <Choice
          label="From"
          options={[
            ["example", "an example"],
            ["pictures", "your pictures"],
          ]}
          value={source}
          onChange={(value) => setFit({ source: value })}
        />
      </div>
      {source === "example" ? <ExamplePair /> : <GivenPair />}
      {pair.value && (
        <div class="row under-pictures">
          <ZoomButtons view={view} />
          <SaveArrays {...pair.value} />
        </div>
      )}
    </section>
  );
}

function ExamplePair() {
  const state = fitState.value;
  const name = examplePicture.value;
  const { value: picture } = usePicture(name || null);
  useEffect(() => {
    if (name && !pair.value) void makeExample();
  }, [name, state.example]);
  const after = pair.value && example.value?.after;
  return (
    <>
      <div class="row choices">
        <Selection
          label="Picture"
          options={[...new Set([...(about.value?.pictures ?? []), name])].map((one) => [one, one])}
          value={name}
          onChange={(value) => setFit({ picture: value })}
        />
        <Selection<FitExample>
          label="Blurred by"
          options={(Object.keys(FIT_EXAMPLES) as FitExample[]).map((one) => [one, EXAMPLE_WORDS[one]])}
          value={state.example}
          onChange={(value) => setFit({ example: value })}
        />
      </div>
      <p class="note">
        The page blurs the picture by a kernel that is known, and rounds the result to 8 bits, as a file has it. The fit sees
        the two pictures alone, and has to find the kernel: you can compare.
      </p>
      <div class="pictures pair">
        {picture && <PictureView title="Before" picture={picture} view={view} />}
        {after && <PictureView title="After" picture={after} view={view} />}
      </div>
      {!after && <JobStatus job={exampleJob} />}
      {exampleProblem.value && (
        <p class="refusal" role="alert">
          {exampleProblem.value}
        </p>
      )}
    </>
  );
}

function GivenPair() {
  const { before, after } = fitState.value;
  const first = usePicture(before || null);
  const second = usePicture(after || null);
  const differ = first.value && second.value && first.value.shape.join() !== second.value.shape.join();
  return (
    <>
      <div class="row choices">
        <PictureChoice label="Before" value={before} onChange={(value) => setFit({ before: value })} />
        <PictureChoice label="After" value={after} onChange={(value) => setFit({ after: value })} />
      </div>
      <p class="note">Both pictures have one size, such as a sharp and a blurred one of the same place.</p>
      {[first.problem, second.problem].filter(Boolean).map((text, place) => (
        <p class="refusal" role="alert" key={place}>
          {text} Choose or upload the picture again.
        </p>
      ))}
      {differ && (
        <p class="refusal" role="alert">
          The pictures differ in size: {first.value!.shape.join(" × ")} and {second.value!.shape.join(" × ")}. A fit compares them pixel by pixel:
          cut them to the same part first.
        </p>
      )}
      <div class="pictures pair">
        {first.value && <PictureView title="Before" picture={first.value} view={view} />}
        {second.value && <PictureView title="After" picture={second.value} view={view} />}
      </div>
    </>
  );
}

interface PictureChoiceProps {
  readonly label: string;
  readonly value: string;
  readonly onChange: (id: string) => void;
}

/** A bundled picture, or a file of the reader's. */
function PictureChoice({ label, value, onChange }: PictureChoiceProps) {
  const names = about.value?.pictures ?? [];
  const options: (readonly [string, string])[] = names.map((name) => [name, name]);
  if (!value) options.unshift(["", "choose one …"]);
  else if (!names.includes(value)) options.unshift([value, fileNames.get(value) ?? "an uploaded picture"]);
  return (
    <div class="picture-choice">
      <Selection label={label} options={options} value={value} onChange={(name) => name && onChange(name)} />
      <Upload label={`A file for ${label.toLowerCase()}`} onPicture={({ id }) => onChange(id)} />
    </div>
  );
}

function SaveArrays({ before, after }: { before: string; after: string }) {
  const problem = useSignal("");
  const offer = async (id: string, name: string): Promise<void> => {
    problem.value = "";
    try {
      save(new Blob([await pictureNumbers(id)]), name);
    } catch (reason) {
      problem.value = wordsOf(reason);
    }
  };
  return (
    <div class="row save">
      <button type="button" class="quiet" onClick={() => void offer(before, "before.npy")}>
        Save before.npy
      </button>
      <button type="button" class="quiet" onClick={() => void offer(after, "after.npy")}>
        Save after.npy
      </button>
      <span class="refusal" role="status">
        {problem.value}
      </span>
    </div>
  );
}
