/** The times of the engines by kernel size, as the server streams them. */

import { signal } from "@preact/signals";
import type { ServerEvent } from "../../server/client";
import type { Series } from "../../server/chart";
import { Job } from "../../server/job";
import type { Run } from "./run";

export interface SizeEvent extends ServerEvent {
  readonly event: "size";
  readonly kernel_size: number;
  readonly chosen: string;
  readonly engines: Readonly<Record<string, { readonly seconds?: number; readonly measured?: number | null; readonly reason?: string }>>;
}

export const crossoverJob = new Job<SizeEvent>("crossover");
export const sizes = signal<readonly SizeEvent[]>([]);
/** What the chart is of, in words. */
export const crossoverOf = signal("");

const MOST_SIDE = 8192;
export const KERNEL_SIZES = [1, 3, 5, 7, 9, 11, 15, 21, 31, 45, 63] as const;

/** Return the request of a chart like a computation: its picture's size, its padding, its dtype. */
export function crossoverRequest({ plan, state }: Run, separable: boolean, measured: boolean) {
  const [channels = 1, , rows = 512, columns = 512] = plan?.shapes.input ?? [];
  return {
    size: [Math.min(rows, MOST_SIDE), Math.min(columns, MOST_SIDE)],
    channels: Math.min(channels, 4),
    kernel_sizes: KERNEL_SIZES,
    dtype: state.dtype === "int32" ? "float32" : state.dtype,
    padding_mode: state.mode,
    stride: state.stride,
    dilation: state.dilation,
    accuracy: state.accuracy,
    separable,
    measured,
  };
}

export function startCrossover(run: Run, separable: boolean, measured: boolean): void {
  const request = crossoverRequest(run, separable, measured);
  const kind = separable ? "kernels that are a column times a row" : "kernels of any values";
  const [rows, columns] = request.size;
  crossoverOf.value = `${rows} × ${columns}${request.channels > 1 ? ` × ${request.channels}` : ""}, ${request.dtype}, ${kind}`;
  sizes.value = [];
  void crossoverJob.start(request, (event) => (sizes.value = [...sizes.value, event]));
}

/** Return a curve for each engine: the planner's times as a line, the measured ones as dots, in milliseconds. */
export function curves(events: readonly SizeEvent[]): Series[] {
  const able = events.flatMap(({ engines }) => Object.keys(engines).filter((name) => engines[name]!.seconds != null));
  const milliseconds = (seconds: number | null | undefined): number | null => (seconds == null || seconds <= 0 ? null : seconds * 1e3);
  return [...new Set(able)].sort().map((label) => {
    const line = events.map(({ engines }) => milliseconds(engines[label]?.seconds));
    const dots = events.map(({ engines }) => milliseconds(engines[label]?.measured));
    return { label, line, ...(dots.some((value) => value !== null) && { dots }) };
  });
}

/** Write which engine the plan chooses for which sizes. */
export function choices(events: readonly SizeEvent[]): string {
  const runs: { engine: string; from: number; to: number }[] = [];
  for (const { kernel_size: size, chosen } of events) {
    const last = runs.at(-1);
    if (last?.engine === chosen) last.to = size;
    else runs.push({ engine: chosen, from: size, to: size });
  }
  return runs.map(({ engine, from, to }) => `${engine} ${from === to ? `at ${from}` : `from ${from} to ${to}`}`).join(", ");
}
