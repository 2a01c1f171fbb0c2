/** Every engine with its planned and measured time, its memory and its error, and why the plan chose. */

import { counted, grouped, short } from "../../parts/numbers";
import type { MeasuredEngine, PlannedEngine, Run } from "./run";

/** Write a time with its unit. */
export function timeText(seconds: number | null | undefined): string {
  if (seconds == null) return "–";
  if (seconds >= 1) return `${short(seconds)} s`;
  return seconds >= 1e-3 ? `${short(seconds * 1e3)} ms` : `${short(seconds * 1e6)} µs`;
}

/** Write a number of bytes with its unit. */
export function bytesText(bytes: number | null | undefined): string {
  if (bytes == null) return "–";
  for (const [size, unit] of [
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ] as const) {
    if (bytes >= size) return `${short(bytes / size)} ${unit}`;
  }
  return `${bytes} B`;
}

export function EnginesCard({ run }: { run: Run }) {
  const { plan, reference } = run;
  if (!plan) return null;
  const measured = [...run.engines.values()];
  const fastest = measured.length > 1 ? measured.reduce((best, one) => (one.seconds < best.seconds ? one : best)).engine : null;
  const able = plan.engines.filter(({ seconds }) => seconds !== null);
  const refused = plan.engines.filter(({ seconds }) => seconds === null);
  return (
    <section class="card" aria-label="Engines">
      <h2>
        Engines: the plan chose <span class="name">{plan.engine}</span>
      </h2>
      <p>{whyChosen(able)}</p>
      <div class="scroll" tabIndex={0} role="group" aria-label="Table of the engines">
        <table class="engines">
          <thead>
            <tr>
              <th scope="col">engine</th>
              <th scope="col">the plan’s verdict</th>
              <th scope="col" class="number">
                planned
              </th>
              <th scope="col" class="number">
                measured
              </th>
              <th scope="col" class="number">
                multiplications
              </th>
              <th scope="col" class="number">
                bytes moved
              </th>
              <th scope="col" class="number">
                workspace
              </th>
              <th scope="col" class="number">
                error
              </th>
              <th scope="col" class="number">
                bound
              </th>
            </tr>
          </thead>
          <tbody>
            {able.map((row) => (
              <EngineRow key={row.engine} row={row} measured={run.engines.get(row.engine)} isChosen={row.engine === plan.engine} isFastest={row.engine === fastest} />
            ))}
          </tbody>
        </table>
      </div>
      {refused.length > 0 && (
        <details>
          <summary>{counted(refused.length, "engine")} cannot compute this</summary>
          <ul>
            {refused.map(({ engine, verdict }) => (
              <li key={engine} data-engine={engine}>
                <span class="name">{engine}</span>: {verdict}
              </li>
            ))}
          </ul>
        </details>
      )}
      <p class="note">
        The layer: {plan.layer}. Planned times are the planner’s estimates for this machine, or its own measurements. Error: the largest difference from
        the exact result{reference ? `, which is by ${reference.engine} in ${reference.dtype}` : ""}, relative to the largest |pixel| times the sum of |kernel|;
        the bound holds for every picture. Each engine is measured once, while this machine does whatever else it does; engines that would take more than 30 times as long as the chosen one are not timed.
      </p>
    </section>
  );
}

/** Write why the first of the engines that can compute this was chosen. */
function whyChosen(able: readonly PlannedEngine[]): string {
  const [chosen, next] = able;
  if (!next) return "No other engine can compute this.";
  const least = `It is expected to take the least time of all: ${timeText(chosen!.seconds)}.`;
  const ratio = chosen!.seconds ? next.seconds! / chosen!.seconds : 0;
  return ratio >= 1 ? `${least} The next, ${next.engine}, is expected to take ${short(ratio)} times as long.` : `Of those that keep the accuracy that is wanted, it is expected to be the fastest: ${timeText(chosen!.seconds)}.`;
}

interface EngineRowProps {
  readonly row: PlannedEngine;
  readonly measured: MeasuredEngine | undefined;
  readonly isChosen: boolean;
  readonly isFastest: boolean;
}

function EngineRow({ row, measured, isChosen, isFastest }: EngineRowProps) {
  return (
    <tr class={isChosen ? "chosen" : undefined} data-engine={row.engine}>
      <th scope="row">
        {row.engine}
        {row.how && <span class="how">{row.how}</span>}
      </th>
      <td>{row.verdict}</td>
      <td class="number">{timeText(row.seconds)}</td>
      <td class="number">
        {measured ? timeText(measured.seconds) : row.is_timed ? "…" : "–"}
        {isFastest && <span class="how">fastest</span>}
      </td>
      <td class="number">{row.multiplications == null ? "–" : grouped(row.multiplications)}</td>
      <td class="number">{bytesText(row.bytes)}</td>
      <td class="number">{bytesText(row.workspace)}</td>
      <td class="number">{measured ? short(measured.relative_error) : "–"}</td>
      <td class="number">{row.bound == null ? "–" : short(row.bound)}</td>
    </tr>
  );
}
