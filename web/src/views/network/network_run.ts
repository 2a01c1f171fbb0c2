/** A run of the view "Network": what has arrived of it so far. */

import type { NetworkState } from "../../state";
import type { ServerEvent } from "../../server/client";

export interface Count {
  readonly multiplications: number;
  readonly additions: number;
  readonly others: number;
  readonly bytes: number;
  readonly macs: number;
}

export interface ModuleCost {
  readonly name: string;
  readonly kind: string;
  readonly depth: number;
  readonly parameters: number;
  readonly receptive_field: string | null;
  readonly forward: Count;
  readonly backward: Count;
}

export interface NetworkCost {
  readonly model: string;
  readonly training: boolean;
  readonly parameters: number;
  readonly output_shapes: readonly (readonly number[])[];
  readonly unknown: Readonly<Record<string, number>>;
  readonly coverage: number;
  readonly lower_bound: boolean;
  readonly forward: Count;
  readonly backward: Count;
  readonly memory: Readonly<Record<"forward" | "backward", Readonly<Record<string, number>>>>;
  readonly modules: readonly ModuleCost[];
}

export interface PeakFound {
  readonly bytes: number;
  readonly optimizer: string;
  readonly operator: string;
  readonly module: string;
  readonly phase: string;
  readonly moments: {
    readonly bytes: readonly number[];
    readonly operator: readonly string[];
    readonly module: readonly string[];
    readonly phase: readonly string[];
  };
}

export interface Rewrite {
  readonly name: string;
  readonly modules: readonly string[];
  readonly conv: string;
  readonly kind: string;
  readonly multiplications_before: number;
  readonly multiplications_after: number;
  readonly warning: string | null;
}

export interface Skipped {
  readonly node: string;
  readonly module: string;
  readonly reason: string;
  readonly kind: string;
  readonly line: string | null;
}

export interface FoldFound {
  readonly rewrites: readonly Rewrite[];
  readonly skipped: readonly Skipped[];
  readonly convolutions_before: number;
  readonly convolutions_after: number;
  readonly multiplications_before: number;
  readonly multiplications_after: number;
  readonly bytes_before: number;
  readonly bytes_after: number;
  readonly norms_before: number;
  readonly norms_after: number;
  readonly others: Readonly<Record<string, number>>;
  readonly error: Readonly<Record<string, number | null>>;
}

interface Refused {
  readonly refused: string;
}

export interface NetworkRequest {
  readonly inputs: readonly (readonly number[])[];
  readonly train: boolean;
  readonly optimizer: string | null;
  readonly memory: number | null;
  readonly fold: boolean;
}

export interface NetworkRun {
  readonly request: NetworkRequest;
  readonly model: { readonly kind: string; readonly parameters: number } | null;
  readonly cost: NetworkCost | null;
  readonly peak: PeakFound | Refused | null;
  readonly batch: { readonly memory: number; readonly largest: number } | null;
  readonly fold: FoldFound | Refused | null;
}

export type NetworkEvent = ServerEvent & { readonly event: "model" | "cost" | "peak" | "batch" | "fold" };

export function networkRequest(state: NetworkState): NetworkRequest {
  const optimizer = state.optimizer === "none" ? null : state.optimizer;
  return { inputs: state.inputs, train: state.train, optimizer, memory: state.memory, fold: state.fold };
}

export function newNetworkRun(request: NetworkRequest): NetworkRun {
  return { request, model: null, cost: null, peak: null, batch: null, fold: null };
}

/** Return a run after one more event, each of which is a part of it by its name. */
export function withEvent(run: NetworkRun, event: NetworkEvent): NetworkRun {
  return { ...run, [event.event]: event };
}

export const isRefused = (part: object): part is Refused => "refused" in part;
