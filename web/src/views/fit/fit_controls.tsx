/** How the kernel is fitted: its size, the method, the border, missing pixels, penalty and errors. */

import { FIRST_FIT, FIT_BOUNDS, FIT_METHODS, FIT_MODES, type FitMethod, isDescent, USUAL_SIZE } from "../../state";
import { fitState, setFit } from "../../state/store";
import { Choice, Selection, Slider, Switch } from "../../parts/controls";
import { NumberField } from "../../parts/number_field";

const METHOD_WORDS: Record<FitMethod, string> = {
  lstsq: "closed form alone",
  gd: "gradient descent",
  momentum: "with momentum",
  adam: "Adam",
  lbfgs: "L-BFGS",
};

export function FitControls() {
  const { method } = fitState.value;
  return (
    <aside class="controls card" aria-label="How the kernel is fitted">
      <section class="by">
        <h2>How it is found</h2>
        <Selection
          label="Method"
          options={FIT_METHODS.map((name) => [name, METHOD_WORDS[name]])}
          value={method}
          onChange={(value) => setFit({ method: value })}
        />
        <p class="note">
          {isDescent(method)
            ? "The closed form is computed too: it is the optimum that the descent approaches."
            : "The kernel with the least squared error, from the normal equations, in one step."}
        </p>
        {isDescent(method) && <Descent />}
      </section>
      <KernelSize />
      <Data />
      <Penalty />
      <section>
        <button type="button" class="quiet" onClick={() => setFit(FIRST_FIT)}>
          Back to the first example
        </button>
      </section>
    </aside>
  );
}

function Descent() {
  const { rate, steps, seed, huber } = fitState.value;
  return (
    <>
      <NumberField label="Learning rate" value={rate} bounds={FIT_BOUNDS.rate} none="chosen" onChange={(value) => setFit({ rate: value })} />
      <NumberField label="Steps" value={steps} bounds={FIT_BOUNDS.steps} whole onChange={(value) => setFit({ steps: value! })} />
      <NumberField label="Seed of the start" value={seed} bounds={FIT_BOUNDS.seed} whole onChange={(value) => setFit({ seed: value! })} />
      <Switch
        label="Huber’s loss, for outlying pixels"
        checked={huber !== null}
        onChange={(checked) => setFit({ huber: checked ? 1 : null })}
      />
      {huber !== null && (
        <NumberField label="Linear from" value={huber} bounds={FIT_BOUNDS.huber} note="in units of the second picture" onChange={(value) => setFit({ huber: value! })} />
      )}
    </>
  );
}

function KernelSize() {
  const { size, method } = fitState.value;
  const descends = isDescent(method);
  const [rows, columns] = size === "auto" ? USUAL_SIZE : size;
  return (
    <section>
      <h2>Kernel size</h2>
      {!descends && (
        <Switch
          label="Choose it from the data"
          checked={size === "auto"}
          onChange={(checked) => setFit({ size: checked ? "auto" : USUAL_SIZE })}
        />
      )}
      {size !== "auto" && (
        <>
          <Slider label="Rows" value={rows} bounds={FIT_BOUNDS.size} onChange={(value) => setFit({ size: [value, columns] })} />
          <Slider label="Columns" value={columns} bounds={FIT_BOUNDS.size} onChange={(value) => setFit({ size: [rows, value] })} />
        </>
      )}
      {descends && <p class="note">With the closed form alone, the data can choose the size.</p>}
    </section>
  );
}

function Data() {
  const { padding, mode, offset, nan } = fitState.value;
  return (
    <section>
      <h2>Pixels</h2>
      <Choice
        label="Border"
        options={[
          ["valid", "left out"],
          ["same", "used"],
        ]}
        value={padding}
        onChange={(value) => setFit({ padding: value })}
      />
      {padding === "same" && (
        <Selection
          label="Beyond the border"
          options={FIT_MODES.map((name) => [name, name])}
          value={mode}
          onChange={(value) => setFit({ mode: value })}
        />
      )}
      <Choice
        label="NaN pixels"
        options={[
          ["refuse", "refused"],
          ["omit", "left out"],
        ]}
        value={nan}
        onChange={(value) => setFit({ nan: value })}
      />
      <Switch label="Fit a constant offset too" checked={offset} onChange={(checked) => setFit({ offset: checked })} />
    </section>
  );
}

function Penalty() {
  const { ridge, errors, method } = fitState.value;
  const descends = isDescent(method);
  return (
    <section>
      <h2>Penalty and errors</h2>
      {!descends && (
        <Switch label="Choose the ridge from the data" checked={ridge === "auto"} onChange={(checked) => setFit({ ridge: checked ? "auto" : 0 })} />
      )}
      {ridge !== "auto" && (
        <NumberField
          label="Ridge"
          value={ridge}
          bounds={FIT_BOUNDS.ridge}
          note="weight of the squared kernel; 0 for none"
          onChange={(value) => setFit({ ridge: value! })}
        />
      )}
      {!descends && (
        <Choice
          label="Errors for"
          options={[
            ["white", "white noise"],
            ["jackknife", "any noise"],
          ]}
          value={errors}
          onChange={(value) => setFit({ errors: value })}
        />
      )}
      {!descends && <p class="note">{errors === "white" ? "White: each pixel’s noise is its own." : "By the jackknife: tiles of the picture are left out in turn."}</p>}
    </section>
  );
}
