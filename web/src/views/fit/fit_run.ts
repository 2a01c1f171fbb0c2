/** A run of the view "Fit": what has arrived of it so far. */

import { FIT_EXAMPLES, type FitMethod, type FitState, isDescent } from "../../state";
import type { Picture, ServerEvent } from "../../server/client";

/** A kernel and its accuracy, as the server finds them; numbers that are not finite are null. */
export interface Found {
  readonly method: string;
  readonly kernel: readonly (readonly (number | null)[])[];
  readonly stderr: readonly (readonly (number | null)[])[] | null;
  readonly offset: number | null;
  readonly loss: number | null;
  readonly residual_rms: number | null;
  readonly explained: number | null;
  readonly condition: number | null;
  readonly learning_rate: number | null;
  readonly held_out_rms: number | null;
  readonly selection: readonly Candidate[];
  readonly warnings: readonly string[];
}

/** A kernel size and a ridge that were compared by predicting tiles that were left out. */
export interface Candidate {
  readonly kernel_size: readonly number[];
  readonly ridge: number;
  readonly rms: number | null;
  readonly excess_mse: number | null;
  readonly excess_mse_stderr: number | null;
}

export interface FitRun {
  readonly method: FitMethod;
  readonly request: FitRequest;
  readonly closed: Found | null;
  readonly descent: Found | null;
  /** Loss of each step so far. */
  readonly losses: readonly (number | null)[];
  /** Kernel of the descent as it was last seen. */
  readonly kernel: Found["kernel"] | null;
  readonly residual: { readonly residual: Picture; readonly predicted: Picture; readonly equations: number } | null;
}

export interface FitRequest {
  readonly method: FitMethod;
  readonly before: string;
  readonly after: string;
  readonly [option: string]: unknown;
}

/** Return whether a warning says that the data cannot identify the kernel. */
export const isUnidentified = (warning: string): boolean => warning.includes("data determine only");

/** Return the request of a state: fields of the method alone, as the server refuses those of others. */
export function fitRequest(state: FitState, before: string, after: string): FitRequest {
  const descends = isDescent(state.method);
  return {
    before,
    after,
    kernel_size: state.size,
    method: state.method,
    padding: state.padding,
    padding_mode: state.mode,
    offset: state.offset,
    ridge: state.ridge,
    nan: state.nan,
    ...(descends
      ? { learning_rate: state.rate, steps: state.steps, seed: state.seed, huber_delta: state.huber }
      : { errors: state.errors }),
  };
}

/** Return the request that filters the picture of an example by its known kernel. */
export function exampleRequest(state: FitState, picture: string): Record<string, unknown> {
  return { picture, kernel: FIT_EXAMPLES[state.example], padding: "same", padding_mode: "symmetric", dtype: "float64", engines: [] };
}

export function newRun(request: FitRequest): FitRun {
  return { method: request.method, request, closed: null, descent: null, losses: [], kernel: null, residual: null };
}

export type FitEvent = ServerEvent & { readonly [field: string]: unknown };

/** Return a run after one more event; events of the queue change nothing. */
export function advanced(run: FitRun, event: FitEvent): FitRun {
  switch (event.event) {
    case "closed":
      return { ...run, closed: event as unknown as Found };
    case "descent":
      return { ...run, descent: event as unknown as Found, kernel: (event as unknown as Found).kernel };
    case "losses": {
      const { first, losses, kernel } = event as unknown as { first: number; losses: (number | null)[]; kernel: Found["kernel"] | null };
      return { ...run, losses: [...run.losses.slice(0, first), ...losses], kernel: kernel ?? run.kernel };
    }
    case "residual":
      return { ...run, residual: event as unknown as FitRun["residual"] };
    default:
      return run;
  }
}
