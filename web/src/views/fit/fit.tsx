/** The view "Fit": the kernel that turned one picture into another, by gradient descent and in closed form. */

import { isDescent } from "../../state";
import { fitState } from "../../state/store";
import { about, aboutProblem } from "../../server/client";
import { JobStatus } from "../../server/job";
import { usePicture } from "../../server/resources";
import { Code } from "../../parts/code";
import { commandFiles, fitCode, fitCommand } from "./fit_code";
import { FitControls } from "./fit_controls";
import { examplePicture, fitJob, isStale, namedPicture, pair, run, startFit } from "./fit_jobs";
import { Kernels, Profile } from "./fit_kernels";
import type { FitRun } from "./fit_run";
import { FitPictures } from "./fit_pictures";
import { FitNumbers, Losses, Residual, Stopped, Unidentified } from "./fit_results";

export function Fit() {
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          <strong>Which kernel turned the one picture into the other?</strong> A fit finds it: in closed form at once, and by
          gradient descent, whose loss you can watch.
        </p>
        {about.value === null ? (
          <p class="card" role="status">
            {aboutProblem.value || "Asking the server …"}
          </p>
        ) : (
          <Shown />
        )}
      </div>
      <FitControls />
    </div>
  );
}

function Shown() {
  const found = run.value;
  return (
    <>
      <FitPictures />
      <Start />
      {found && <Unidentified run={found} />}
      {found && <Losses run={found} />}
      <Kernels />
      <Profile />
      {found && <FitNumbers run={found} />}
      {found && <Residual run={found} />}
      {found && <AsText run={found} />}
      <Codes />
    </>
  );
}

/** The kernel that the code to copy prints, and its loss. */
function AsText({ run }: { run: FitRun }) {
  const shown = run.descent ?? (isDescent(run.method) ? null : run.closed);
  if (!shown) return null;
  return (
    <details class="card">
      <summary>Kernel and loss as text</summary>
      <pre id="output-text" tabIndex={0} aria-label="Kernel as nested lists, and its loss">
        {JSON.stringify([shown.kernel, shown.loss])}
      </pre>
    </details>
  );
}

function Start() {
  const state = fitState.value;
  const found = run.value;
  const descends = isDescent(state.method);
  return (
    <section class="card run" aria-label="Fit the kernel">
      <div class="row">
        <button type="button" disabled={!pair.value || fitJob.isActive.value} onClick={() => void startFit()}>
          Fit the kernel
        </button>
        <JobStatus job={fitJob} done="Done." />
      </div>
      {!pair.value && state.source === "pictures" && <p class="note">Choose or upload both pictures first.</p>}
      {!found && pair.value && (
        <p class="note">
          {descends ? `${state.steps} steps from a random kernel; you can stop it at any time.` : "The closed form takes a moment."}
        </p>
      )}
      {found && <Stopped run={found} />}
      {isStale.value && !fitJob.isActive.value && <p class="note">The settings or pictures have changed since: the results below belong to the earlier ones.</p>}
    </section>
  );
}

function Codes() {
  const state = fitState.value;
  const isExample = state.source === "example";
  const names = isExample ? { before: examplePicture.value, after: "" } : { before: state.before, after: state.after };
  const first = usePicture(names.before || null);
  const second = usePicture(names.after || null);
  if (!names.before || (!isExample && !names.after)) return null;
  const before = namedPicture(names.before, first.value);
  const after = namedPicture(names.after, second.value);
  const { saved } = commandFiles(state, before, after);
  return (
    <>
      <Code code={fitCode(state, before, after)} />
      <Code
        code={fitCommand(state, before, after)}
        title="Copy as command"
        label="Command"
        note={saved ? "Save before.npy and after.npy by the buttons below the pictures first." : "In the folder of the two files."}
      />
    </>
  );
}
