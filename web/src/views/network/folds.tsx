/** What folding makes of a model: counts before and after, each rewrite, and each part that stays with its reason. */

import { amount, counted, grouped, short } from "../../parts/numbers";
import { type FoldFound, isRefused, type NetworkRun, type Rewrite, type Skipped } from "./network_run";

const KIND_WORDS: Record<string, string> = {
  refused: "not one convolution",
  "does not pay": "would not save time",
  kept: "kept as it is",
  norm: "norm stays",
  settled: "whole model",
};

export function Folds({ fold }: { fold: NonNullable<NetworkRun["fold"]> }) {
  return (
    <section class="card folds" aria-label="What folds">
      <h2>What folds</h2>
      {isRefused(fold) ? <p class="refusal">{fold.refused}</p> : <Found fold={fold} />}
    </section>
  );
}

function Found({ fold }: { fold: FoldFound }) {
  const saved = fold.multiplications_before - fold.multiplications_after;
  const share = fold.multiplications_before ? (100 * saved) / fold.multiplications_before : 0;
  const rows = [
    ["convolutions", fold.convolutions_before, fold.convolutions_after],
    ["batch norms", fold.norms_before, fold.norms_after],
    ["multiplications", fold.multiplications_before, fold.multiplications_after],
    ["bytes read and written", fold.bytes_before, fold.bytes_after],
  ] as const;
  const errors = Object.entries(fold.error).map(([dtype, error]) => `${error === null ? "not a number" : short(error)} in ${dtype}`);
  return (
    <>
      <p>
        {fold.rewrites.length
          ? `${counted(fold.rewrites.length, "group")} of layers ${fold.rewrites.length === 1 ? "becomes" : "become"} one convolution each: ${share.toFixed(1)}% fewer multiplications.`
          : "Nothing folds in this model."}{" "}
        {fold.rewrites.length > 0 && errors.length > 0 && `Largest relative difference of the outputs: ${errors.join(", ")}.`}
      </p>
      <div class="tables">
        <div class="scroll">
          <table>
            <caption>Before and after</caption>
            <thead>
              <tr>
                <th scope="col">count</th>
                <th scope="col" class="number">
                  before
                </th>
                <th scope="col" class="number">
                  after
                </th>
              </tr>
            </thead>
            <tbody>
              {rows.map(([name, before, after]) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td class="number" title={grouped(before)}>
                    {amount(before)}
                  </td>
                  <td class="number" title={grouped(after)}>
                    {amount(after)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </div>
      {fold.rewrites.length > 0 && <Rewrites rewrites={fold.rewrites} />}
      {fold.skipped.length > 0 && <Stays skipped={fold.skipped} />}
      {Object.keys(fold.others).length > 0 && (
        <p class="note">
          Operators that folding leaves alone: {Object.entries(fold.others).map(([name, times]) => `${name} (${times} ×)`).join(", ")}.
        </p>
      )}
    </>
  );
}

function Rewrites({ rewrites }: { rewrites: readonly Rewrite[] }) {
  return (
    <div class="scroll tall" tabIndex={0} role="region" aria-label="Layers that become one convolution">
      <table class="rewrites">
        <caption>Layers that become one convolution</caption>
        <thead>
          <tr>
            <th scope="col">in place of</th>
            <th scope="col">convolution</th>
            <th scope="col">exactness</th>
            <th scope="col" class="number">
              multiplications
            </th>
          </tr>
        </thead>
        <tbody>
          {rewrites.map((one) => (
            <tr key={one.name}>
              <th scope="row" class="name">
                {one.modules.join(", ")}
              </th>
              <td>{one.conv}</td>
              <td>
                {one.kind}
                {one.warning && <span class="note"> In int8: {one.warning}.</span>}
              </td>
              <td class="number" title={`${grouped(one.multiplications_before)} before, ${grouped(one.multiplications_after)} after`}>
                {amount(one.multiplications_before)} → {amount(one.multiplications_after)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Stays({ skipped }: { skipped: readonly Skipped[] }) {
  return (
    <div class="scroll tall" tabIndex={0} role="region" aria-label="Parts that stay, with the reason">
      <table class="skipped">
        <caption>Parts that stay, with the reason</caption>
        <thead>
          <tr>
            <th scope="col">module</th>
            <th scope="col">outcome</th>
            <th scope="col">reason</th>
          </tr>
        </thead>
        <tbody>
          {skipped.map((one, place) => (
            <tr key={place}>
              <th scope="row" class="name">
                {one.module || one.node || "the model"}
              </th>
              <td>{KIND_WORDS[one.kind] ?? one.kind}</td>
              <td>
                {one.reason}
                {one.line && <span class="note"> ({one.line})</span>}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
