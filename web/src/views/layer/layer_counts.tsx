/** Operations and memory of the layer that is shown, forward and backward. */

import { signal } from "@preact/signals";
import { type Convention, CONVENTIONS, countsOf, type Layer, memoryOf } from "../../core";
import { Choice } from "../../parts/controls";
import { grouped } from "../../parts/numbers";

const convention = signal<Convention>("dense");
const BYTES = 4;

const PASSES = [
  ["forward", "forward"],
  ["inputGradient", "gradient of the input"],
  ["kernelGradient", "gradient of the kernel"],
  ["biasGradient", "gradient of the bias"],
] as const;

const TERMS = {
  input: "input",
  parameters: "parameters",
  output: "output",
  parameterGradients: "gradients of the parameters",
  inputGradient: "gradient of the input",
  outputGradient: "gradient of the output",
  savedActivations: "input, saved for the backward pass",
} as const;

export function LayerCounts({ layer, biased }: { layer: Layer; biased: boolean }) {
  const counts = countsOf(layer, biased, convention.value);
  const memory = memoryOf(layer, biased, BYTES);
  const passes = PASSES.filter(([name]) => biased || name !== "biasGradient");
  const terms = [
    ...Object.entries(memory.forward).map(([term, bytes]) => ["forward", term, bytes] as const),
    ...Object.entries(memory.backward).map(([term, bytes]) => ["backward", term, bytes] as const),
  ];
  return (
    <section class="card" aria-label="Counts">
      <div class="row">
        <h2>What it costs</h2>
        <Choice
          label="Products with the padding’s zeros"
          options={CONVENTIONS.map((name) => [name, name === "dense" ? "counted (dense)" : "left out (effective)"])}
          value={convention.value}
          onChange={(value) => (convention.value = value)}
        />
      </div>
      <div class="tables">
        <div class="scroll">
          <table>
            <caption>Operations for one image</caption>
            <thead>
              <tr>
                <th scope="col">pass</th>
                <th scope="col" class="number">
                  multiplications
                </th>
                <th scope="col" class="number">
                  additions
                </th>
              </tr>
            </thead>
            <tbody>
              {passes.map(([name, text]) => (
                <tr key={name}>
                  <th scope="row">{text}</th>
                  <td class="number">{grouped(counts[name].multiplications)}</td>
                  <td class="number">{grouped(counts[name].additions)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        <div class="scroll">
          <table>
            <caption>Memory in float32</caption>
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
              {terms.map(([pass, term, bytes]) => (
                <tr key={pass + term}>
                  <th scope="row">{pass}</th>
                  <td>{TERMS[term as keyof typeof TERMS]}</td>
                  <td class="number">{grouped(bytes)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </div>
      <p class="note">As <code>convolith cost</code> counts them: one addition fewer than products for each result, one more for a bias.</p>
    </section>
  );
}
