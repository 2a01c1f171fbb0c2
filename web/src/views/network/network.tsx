/** The view "Network": the model of the command line taken apart: its costs, what folds, its memory by time. */

import { signal } from "@preact/signals";
import { networkState } from "../../state/store";
import { about, aboutProblem } from "../../server/client";
import { Job, JobStatus } from "../../server/job";
import { Code } from "../../parts/code";
import { amount, grouped } from "../../parts/numbers";
import { CostTree, peakOf } from "./cost_tree";
import { Folds } from "./folds";
import { networkCode, networkCommands } from "./network_code";
import { NetworkControls } from "./network_controls";
import { isRefused, type NetworkCost, type NetworkEvent, networkRequest, type NetworkRun, newNetworkRun, withEvent } from "./network_run";
import { OPTIMIZER_NAMES, PeakByTime } from "./peak_by_time";

const job = new Job<NetworkEvent>("network");
const run = signal<NetworkRun | null>(null);

function examine(): void {
  const request = networkRequest(networkState.value);
  run.value = newNetworkRun(request);
  void job.start(request, (event) => (run.value = withEvent(run.value!, event)));
}

export function Network() {
  const model = about.value?.model ?? null;
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          The costs of <strong>your own model</strong>: where its multiplications and its memory are, which layers fold into one, and the
          largest batch that fits.
        </p>
        {about.value === null ? (
          <p class="card" role="status">
            {aboutProblem.value || "Asking the server …"}
          </p>
        ) : model === null ? (
          <NoModel />
        ) : (
          <Examined model={model} />
        )}
      </div>
      {model !== null && <NetworkControls />}
    </div>
  );
}

const EXAMPLE = `# my_models.py
from torch import nn


def small():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 10, 1),
    )`;

function NoModel() {
  return (
    <section class="card" aria-label="How to start with a model">
      <h2>No model was named yet</h2>
      <p>
        The page never loads a model by itself: it shows the one that you name when you start the server. End the server
        with Ctrl-C, and start it again in the folder of your code with the name of a function that returns a model:
      </p>
      <pre tabIndex={0} aria-label="Command">convolith serve my_models:small</pre>
      <p>
        Here, <code>my_models</code> is a Python file, and <code>small</code> a function in it without arguments, such as:
      </p>
      <pre tabIndex={0} aria-label="Example of a file with a model">{EXAMPLE}</pre>
      <p class="note">
        Any torch model works: <code>torchvision.models:resnet18</code> needs no file of your own, if torchvision is installed.
      </p>
    </section>
  );
}

function Examined({ model }: { model: string }) {
  const state = networkState.value;
  const found = run.value;
  const stale = found !== null && JSON.stringify(found.request) !== JSON.stringify(networkRequest(state));
  const peak = peakOf(found?.peak ?? null);
  return (
    <>
      <section class="card run" aria-label="Examine the model">
        <div class="row">
          <button type="button" onClick={examine} disabled={job.isActive.value}>
            Examine {model}
          </button>
          <JobStatus job={job} done="Done." />
        </div>
        {stale && !job.isActive.value && <p class="note">The settings have changed since: the numbers below belong to the earlier ones.</p>}
        {found?.cost && <Totals cost={found.cost} request={found.request} />}
        {found?.batch && <Batch batch={found.batch} optimizer={found.request.optimizer ?? ""} />}
      </section>
      {found?.cost && <CostTree cost={found.cost} peak={peak} />}
      {found?.peak &&
        (isRefused(found.peak) ? (
          <section class="card" aria-label="Memory by time">
            <h2>Memory of a training step</h2>
            <p class="refusal">{found.peak.refused}</p>
          </section>
        ) : (
          <PeakByTime peak={found.peak} />
        ))}
      {found?.fold && <Folds fold={found.fold} />}
      {found?.cost && <MemoryTerms cost={found.cost} />}
      {found?.cost && <AsText run={found} cost={found.cost} />}
      <Code code={networkCode(state, model)} />
      <Code code={networkCommands(state, model)} title="Copy as command" label="Command" />
    </>
  );
}

/** The numbers that the code to copy prints. */
function AsText({ run, cost }: { run: NetworkRun; cost: NetworkCost }) {
  const { peak, batch, fold } = run;
  const numbers = [cost.forward.multiplications, cost.forward.additions, cost.parameters];
  if (peak && !isRefused(peak)) numbers.push(peak.bytes);
  if (batch) numbers.push(batch.largest);
  if (fold && !isRefused(fold)) numbers.push(fold.multiplications_before, fold.multiplications_after);
  return (
    <details class="card">
      <summary>Totals as text</summary>
      <pre id="output-text" tabIndex={0} aria-label="Totals as a list">
        {JSON.stringify(numbers)}
      </pre>
    </details>
  );
}

function Totals({ cost, request }: { cost: NetworkCost; request: NetworkRun["request"] }) {
  const sizes = request.inputs.map((shape) => shape.join(" × ")).join(" and ");
  const outputs = cost.output_shapes.map((shape) => shape.join(" × ")).join(" and ");
  return (
    <>
      <dl class="totals">
        <Total name="multiplications" value={cost.forward.multiplications} />
        <Total name="additions" value={cost.forward.additions} />
        <Total name="parameters" value={cost.parameters} />
      </dl>
      <p class="note">
        {cost.model}, forward pass of inputs of {sizes}, in {cost.training ? "training" : "evaluation"} mode; outputs of {outputs}.
      </p>
      {cost.lower_bound && (
        <p class="refusal">
          These are lower bounds: some operators have no rule, {Object.entries(cost.unknown).map(([name, calls]) => `${name} (${calls} ×)`).join(", ")}.
          {" "}{(100 * cost.coverage).toFixed(1)}% of the calls are counted.
        </p>
      )}
    </>
  );
}

function Total({ name, value }: { name: string; value: number }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd title={grouped(value)} data-total={name}>
        {amount(value)}
      </dd>
    </div>
  );
}

function Batch({ batch, optimizer }: { batch: { memory: number; largest: number }; optimizer: string }) {
  return (
    <p data-largest={batch.largest}>
      {batch.largest
        ? <>The largest batch whose training step with {OPTIMIZER_NAMES[optimizer] ?? optimizer} fits into {amount(batch.memory, "B")}: <strong>{grouped(batch.largest)}</strong>.</>
        : `Not even the smallest batch fits into ${amount(batch.memory, "B")}: its training step needs more.`}
    </p>
  );
}

const TERM_WORDS: Record<string, string> = {
  input: "input",
  parameters: "parameters and buffers",
  output: "output",
  parameter_gradients: "gradients of the parameters",
  input_gradient: "gradient of the input",
  output_gradient: "gradient of the output",
  saved_activations: "activations, saved for the backward pass",
  bytes: "together",
};

function MemoryTerms({ cost }: { cost: NetworkCost }) {
  const rows = (["forward", "backward"] as const).flatMap((pass) =>
    Object.entries(cost.memory[pass]).map(([term, bytes]) => [pass, term, bytes] as const),
  );
  return (
    <details class="card">
      <summary>Memory, term by term</summary>
      <div class="scroll">
        <table>
          <caption>Bytes held, by pass and term</caption>
          <thead>
            <tr>
              <th scope="col">pass</th>
              <th scope="col">term</th>
              <th scope="col" class="number">
                bytes
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map(([pass, term, bytes]) => (
              <tr key={pass + term}>
                <th scope="row">{pass}</th>
                <td>{TERM_WORDS[term] ?? term.replaceAll("_", " ")}</td>
                <td class="number">{grouped(bytes)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
