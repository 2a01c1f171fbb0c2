/** What is examined of the model: the shapes of its inputs, its mode, the training step, the memory, folding. */

import { useSignal } from "@preact/signals";
import { useId } from "preact/hooks";
import { FIRST_NETWORK, NETWORK_BOUNDS, OPTIMIZERS, readShapes, shapesText } from "../../state";
import { networkState, setNetwork } from "../../state/store";
import { Choice, Selection, Switch } from "../../parts/controls";
import { NumberField } from "../../parts/number_field";

const OPTIMIZER_WORDS = { sgd: "SGD", momentum: "SGD with momentum", adam: "Adam", none: "none: no training step" } as const;

export function NetworkControls() {
  const state = networkState.value;
  return (
    <aside class="controls card" aria-label="The model">
      <section>
        <h2>Inputs</h2>
        <InputShapes />
      </section>
      <section>
        <h2>Mode</h2>
        <Choice
          label="Counted in"
          options={[
            ["0", "evaluation"],
            ["1", "training"],
          ]}
          value={state.train ? "1" : "0"}
          onChange={(value) => setNetwork({ train: value === "1" })}
        />
        <Switch label="Find what folds" checked={state.fold} onChange={(fold) => setNetwork({ fold })} />
      </section>
      <section>
        <h2>Training step</h2>
        <Selection
          label="Optimizer"
          options={OPTIMIZERS.map((name) => [name, OPTIMIZER_WORDS[name]])}
          value={state.optimizer}
          onChange={(optimizer) => setNetwork({ optimizer })}
        />
        {state.optimizer !== "none" && <MemoryField />}
      </section>
      <section>
        <button type="button" class="quiet" onClick={() => setNetwork(FIRST_NETWORK)}>
          Back to the first settings
        </button>
      </section>
    </aside>
  );
}

function InputShapes() {
  const id = useId();
  const said = useSignal("");
  const store = (text: string): void => {
    const shapes = readShapes(text.trim(), /\s*\n\s*|\s*;\s*/);
    said.value = typeof shapes === "string" ? shapes : "";
    if (typeof shapes !== "string") setNetwork({ inputs: shapes });
  };
  return (
    <>
      <label class="stacked-label" for={id}>
        Shape of each input, one a line
      </label>
      <textarea
        id={id}
        rows={Math.min(Math.max(networkState.value.inputs.length, 1) + 1, 5)}
        spellcheck={false}
        value={shapesText(networkState.value.inputs, " x ", "\n")}
        aria-describedby={`${id}-said ${id}-note`}
        onChange={(event) => store(event.currentTarget.value)}
      />
      <p class="note" id={`${id}-note`}>
        The batch first: 1 x 3 x 224 x 224 is one image of 3 channels.
      </p>
      <p class="refusal" id={`${id}-said`} role="status">
        {said.value}
      </p>
    </>
  );
}

function MemoryField() {
  const { memory } = networkState.value;
  const [least, most] = NETWORK_BOUNDS.memory;
  return (
    <>
      <Switch
        label="Find the largest batch"
        checked={memory !== null}
        onChange={(checked) => setNetwork({ memory: checked ? FIRST_NETWORK.memory : null })}
      />
      {memory !== null && (
        <NumberField
          label="Memory, GB"
          value={memory / 1e9}
          bounds={[least, most / 1e9]}
          onChange={(value) => setNetwork({ memory: Math.round(value! * 1e9) })}
        />
      )}
    </>
  );
}
