/** Counts term by term: each formula in letters and in numbers, with its value. */

import type { VNode } from "preact";
import {
  type Convention,
  CONVENTIONS,
  type CostOptions,
  type Formula,
  type Layer,
  memoryFormulas,
  OPERATIONS,
  operationFormulas,
  PASSES,
  valueOf,
} from "../core";
import { Choice } from "./controls";
import { mi, mo, sub } from "./formula";
import { grouped } from "./numbers";

const PASS_WORDS = {
  forward: "Forward",
  inputGradient: "Backward: gradient of the input",
  kernelGradient: "Backward: gradient of the kernel",
  biasGradient: "Backward: gradient of the bias",
} as const;

const TERM_WORDS = {
  input: "input",
  parameters: "parameters",
  output: "output",
  parameterGradients: "gradients of the parameters",
  inputGradient: "gradient of the input",
  outputGradient: "gradient of the output",
  savedActivations: "input, saved for the backward pass",
} as const;

/** Meaning of the letters, by what they look like; the first that fits. */
const LETTERS: readonly (readonly [RegExp, string])[] = [
  [/^N/, "images of the batch"],
  [/^c_o/, "output channels"],
  [/^c_i$/, "input channels"],
  [/^c_i/, "input channels of a group"],
  [/^k/, "kernel size"],
  [/^[hwn]$/, "size of the input"],
  [/_o$/, "size of the output"],
  [/_s$/, "size of the input with the padding that torch adds to it in advance"],
  [/^P/, "products of the forward pass"],
  [/^p/, "pairs of an output and a tap along an axis that meet an input"],
  [/^r/, "outputs along an axis that meet an input"],
  [/^t/, "taps along an axis that meet an input"],
  [/^a/, "places along an axis that some product uses; padding too, if its zeros are counted"],
  [/^b/, "bytes of a number"],
];

/** Write a name such as `k_h` or `c_i/g` as MathML. */
function named(name: string): VNode[] {
  const [base, divisor] = name.split("/") as [string, string?];
  const [letter, index] = base.split("_") as [string, string?];
  const written = index ? sub(mi(letter), mi(index)) : mi(letter);
  return divisor ? [written, mo("/"), mi(divisor)] : [written];
}

/** Write a formula in letters, one piece for each summand, so that lines can break between them. */
function InLetters({ formula }: { formula: Formula }) {
  return (
    <>
      {formula.map(({ sign, factors }, place) => (
        <math key={place}>
          <mrow>
            {(sign < 0 || place > 0) && <mo rspace=".22em">{sign < 0 ? "−" : "+"}</mo>}
            {factors.flatMap(([name], n) => [...(n ? [mo("·")] : []), ...named(name)])}
          </mrow>
        </math>
      ))}
    </>
  );
}

function inNumbers(formula: Formula): string {
  return formula
    .map(({ sign, factors }, place) => {
      const product = factors.map(([, value]) => grouped(value)).join(" · ");
      return sign < 0 ? `− ${product}` : place ? `+ ${product}` : product;
    })
    .join(" ");
}

interface TermProps {
  readonly name: string;
  readonly formula: Formula;
  /** Share of the largest value of a list, drawn as a bar. */
  readonly share?: number;
}

function Term({ name, formula, share }: TermProps) {
  return (
    <div class="cost-term">
      <dt>{name}</dt>
      <dd>
        <InLetters formula={formula} />
      </dd>
      <dd class="digits">{formula.length ? inNumbers(formula) : "no products, only sums"}</dd>
      <dd class="value">
        {grouped(valueOf(formula))}
        {share !== undefined && <span class="cost-share" style={{ width: `${100 * share}%` }} />}
      </dd>
    </div>
  );
}

function Letters({ formulas }: { formulas: readonly Formula[] }) {
  const names = new Set(formulas.flatMap((formula) => formula.flatMap(({ factors }) => factors.map(([name]) => name))));
  const meanings = new Map<string, string[]>();
  for (const name of names) {
    const words = LETTERS.find(([pattern]) => pattern.test(name))![1];
    meanings.set(words, [...(meanings.get(words) ?? []), name]);
  }
  return (
    <ul class="cost-letters note">
      {[...meanings].map(([words, alike]) => (
        <li key={words}>
          {alike.map((name, place) => [place > 0 && ", ", <math>{named(name)}</math>])}{" "}
          {words}
        </li>
      ))}
    </ul>
  );
}

interface OperationTermsProps {
  readonly layer: Layer;
  readonly options: CostOptions;
  readonly onConvention: (convention: Convention) => void;
}

export function OperationTerms({ layer, options, onConvention }: OperationTermsProps) {
  const formulas = operationFormulas(layer, options);
  const passes = PASSES.filter((pass) => formulas[pass].additions.length);
  return (
    <section class="card" aria-label="Operations">
      <div class="row">
        <h2>Operations</h2>
        <Choice
          label="Products with the padding’s zeros"
          options={CONVENTIONS.map((name) => [name, name === "dense" ? "counted (dense)" : "left out (effective)"])}
          value={options.convention}
          onChange={onConvention}
        />
      </div>
      {passes.map((pass) => (
        <div key={pass}>
          <h3>{PASS_WORDS[pass]}</h3>
          <dl class="terms-list">
            {OPERATIONS.map((name) => (
              <Term key={name} name={name} formula={formulas[pass][name]} />
            ))}
          </dl>
        </div>
      ))}
      <p class="note">
        A sum of n products takes n − 1 additions, and one more if a bias is added: as many additions as products, less one for
        each result.
      </p>
      <Letters formulas={passes.flatMap((pass) => OPERATIONS.map((name) => formulas[pass][name]))} />
    </section>
  );
}

export function MemoryTerms({ layer, options, dtype }: { layer: Layer; options: CostOptions; dtype: string }) {
  const { forward, backward } = memoryFormulas(layer, options);
  const lists = [
    ["Held by the forward pass", Object.entries(forward) as [string, Formula][]],
    ["Held for the backward pass", Object.entries(backward).filter(([, formula]) => formula.length) as [string, Formula][]],
  ] as const;
  const all = lists.flatMap(([, terms]) => terms.map(([, formula]) => formula));
  const largest = Math.max(...all.map((formula) => Number(valueOf(formula))));
  return (
    <section class="card" aria-label="Memory">
      <h2>Memory, bytes in {dtype}</h2>
      {lists.map(([title, terms]) => (
        <div key={title}>
          <h3>{title}</h3>
          <dl class="terms-list">
            {terms.map(([term, formula]) => (
              <Term
                key={term}
                name={TERM_WORDS[term as keyof typeof TERM_WORDS]}
                formula={formula}
                share={Number(valueOf(formula)) / largest}
              />
            ))}
          </dl>
        </div>
      ))}
      <p class="note">
        The backward pass needs the input again: in training it is kept until then, otherwise it can be freed after the layer.
      </p>
      <Letters formulas={all} />
    </section>
  );
}
