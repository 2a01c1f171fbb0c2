/** The computation of the view "Compute": its request, its events, and what they have brought so far. */

import { computed, signal } from "@preact/signals";
import { about, type Picture, type ServerEvent } from "../../server/client";
import { Job } from "../../server/job";
import type { ComputeState } from "../../state";
import { computeState } from "../../state/store";

/** An engine in a plan; `seconds` and what follows are null or absent where it is refused. */
export interface PlannedEngine {
  readonly engine: string;
  readonly verdict: string;
  readonly how?: string;
  readonly seconds: number | null;
  readonly seconds_are?: string;
  readonly multiplications?: number | null;
  readonly additions?: number | null;
  readonly bytes?: number | null;
  readonly workspace?: number | null;
  readonly bound?: number | null;
  readonly is_timed: boolean;
}

interface PlanEvent extends ServerEvent {
  readonly event: "plan";
  readonly engine: string;
  readonly how: string;
  readonly layer: string;
  readonly shapes: { readonly input: number[]; readonly kernel: number[]; readonly output: number[] };
  readonly planned_seconds: number;
  readonly engines: readonly PlannedEngine[];
}

interface ResultEvent extends ServerEvent {
  readonly event: "result";
  readonly result: Picture;
  readonly difference: Picture | null;
  readonly why_no_difference?: string;
  readonly engine: string;
  readonly seconds: number;
  readonly strips: number;
}

interface ReferenceEvent extends ServerEvent {
  readonly event: "reference";
  readonly engine: string;
  readonly dtype: string;
}

export interface MeasuredEngine extends ServerEvent {
  readonly event: "engine";
  readonly engine: string;
  readonly how: string;
  readonly seconds: number;
  readonly strips: number;
  readonly estimated_seconds: number | null;
  readonly bytes: number | null;
  readonly workspace: number | null;
  readonly error: number;
  readonly relative_error: number;
  readonly bound: number;
}

export type ComputeEvent = PlanEvent | ResultEvent | ReferenceEvent | MeasuredEngine;

/** What a request has brought so far. */
export interface Run {
  readonly state: ComputeState;
  readonly request: ComputeRequest;
  readonly plan: PlanEvent | null;
  readonly result: ResultEvent | null;
  readonly reference: ReferenceEvent | null;
  readonly engines: ReadonlyMap<string, MeasuredEngine>;
}

export const job = new Job<ComputeEvent>("compute");
export const run = signal<Run | null>(null);

/** The picture that is chosen: by its name, or the first one that the server has. */
export const pictureName = computed(() => computeState.value.picture || (about.value?.pictures[0] ?? ""));

export function requestOf(state: ComputeState, picture: string) {
  const { kernel, padding, mode, stride, dilation, dtype, accuracy, flip } = state;
  return { picture, kernel, padding, padding_mode: mode, stride, dilation, dtype, accuracy, flip };
}

export type ComputeRequest = ReturnType<typeof requestOf>;

/** Whether the settings are others than those of the results that are shown. */
export const isStale = computed(
  () => run.value !== null && JSON.stringify(run.value.request) !== JSON.stringify(requestOf(computeState.value, pictureName.value)),
);

export function start(): void {
  const state = computeState.value;
  const request = requestOf(state, pictureName.value);
  run.value = { state, request, plan: null, result: null, reference: null, engines: new Map() };
  void job.start(request, follow);
}

function follow(event: ComputeEvent): void {
  const before = run.value!;
  switch (event.event) {
    case "plan":
      run.value = { ...before, plan: event };
      break;
    case "result":
      run.value = { ...before, result: event };
      break;
    case "reference":
      run.value = { ...before, reference: event };
      break;
    case "engine":
      run.value = { ...before, engines: new Map(before.engines).set(event.engine, event) };
  }
}
