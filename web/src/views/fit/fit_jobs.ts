/** The computations of the view "Fit": the example's second picture, and the fit. */

import { computed, signal } from "@preact/signals";
import { FIT_EXAMPLES, type FitState } from "../../state";
import { fitState } from "../../state/store";
import { about, fileNames, type Picture, pictureAbout, pictureBlob, postJson, type ServerEvent, upload, wordsOf } from "../../server/client";
import { Job } from "../../server/job";
import type { NamedPicture } from "./fit_code";
import { inWordsOfThePage } from "./fit_words";
import { advanced, exampleRequest, type FitEvent, type FitRun, fitRequest, newRun } from "./fit_run";

export const fitJob = new Job<FitEvent>("fit", inWordsOfThePage);
export const exampleJob = new Job<ServerEvent & { readonly result?: Picture }>("compute");
export const run = signal<FitRun | null>(null);

/** Second picture of an example with the kernel that made it; `key` says of which example. */
interface Example {
  readonly key: string;
  readonly after: Picture;
  readonly kernel: readonly (readonly number[])[];
}

export const example = signal<Example | null>(null);
export const exampleProblem = signal("");
/** Pictures that suit an example, the best first: with detail everywhere, so that they determine a kernel. */
const SUITABLE = ["camera", "noise"];

/** Name of the bundled picture of the example. */
export const examplePicture = computed(() => {
  const names = about.value?.pictures ?? [];
  return fitState.value.picture || (SUITABLE.find((name) => names.includes(name)) ?? names[0] ?? "");
});

function keyOf(state: FitState): string {
  return `${examplePicture.value} ${state.example}`;
}

/** Identifiers of both pictures, or null as long as one is missing. */
export const pair = computed((): { before: string; after: string } | null => {
  const state = fitState.value;
  if (state.source === "pictures") return state.before && state.after ? { before: state.before, after: state.after } : null;
  const made = example.value;
  return made?.key === keyOf(state) ? { before: examplePicture.value, after: made.after.id } : null;
});

/** Kernel that made the example's second picture, or null where both pictures are given. */
export const knownKernel = computed(() => (fitState.value.source === "example" ? (example.value?.kernel ?? null) : null));

/** Make the second picture of the example: filtered by the server, then rounded to 8 bits as a file has it. */
export async function makeExample(): Promise<void> {
  const state = fitState.value;
  const key = keyOf(state);
  exampleProblem.value = "";
  example.value = null;
  let filtered: Picture | null = null;
  await exampleJob.start(exampleRequest(state, examplePicture.value), (event) => {
    if (event.event === "result") filtered = event.result ?? null;
  });
  if (!filtered) return;
  try {
    const { id } = filtered as Picture;
    const { blob } = await pictureBlob(id, { low: 0, high: 255 });
    const after = await upload(blob);
    const { values } = await postJson<{ values: number[][] }>("kernel", { kernel: FIT_EXAMPLES[state.example] });
    if (key === keyOf(fitState.value)) example.value = { key, after, kernel: values };
  } catch (problem) {
    exampleProblem.value = wordsOf(problem);
  }
}

/** Fit the kernel; an example whose second picture the server has given up meanwhile is made anew. */
export async function startFit(): Promise<void> {
  const state = fitState.value;
  if (state.source === "example" && example.value) {
    const kept = await pictureAbout(example.value.after.id).catch(() => null);
    if (!kept) await makeExample();
  }
  const names = pair.value;
  if (!names) return;
  const request = fitRequest(state, names.before, names.after);
  run.value = newRun(request);
  await fitJob.start(request, (event) => (run.value = advanced(run.value!, event)));
}

/** Whether the settings or the pictures have changed since the fit that is shown. */
export const isStale = computed(() => {
  const found = run.value;
  const names = pair.value;
  if (!found) return false;
  return !names || JSON.stringify(found.request) !== JSON.stringify(fitRequest(fitState.value, names.before, names.after));
});

/** Return a picture as the code to copy names it. */
export function namedPicture(name: string, picture: Picture | null): NamedPicture {
  return {
    name,
    bundled: about.value?.pictures.includes(name) ?? false,
    file: fileNames.get(name) ?? null,
    plain: picture !== null && picture.notes.length === 0,
  };
}
