/** What an exercise consists of, and how its numbers are drawn. */

import { type Layer, named, randomNumbers, SINGLE, type Tensor } from "../../core";
import type { LayerState, State } from "../../state";

export interface Question {
  readonly ask: string;
  /** Texts to choose from; absent where the answer is a number. */
  readonly options?: readonly string[];
  readonly answer: number | string;
  /** Digits after the point that an answer needs; absent where it is exact. */
  readonly digits?: number;
  /** The derivation, with the numbers of the instance. */
  readonly why: string;
}

/** A view that shows the exercise, with its state. */
export interface Link {
  readonly text: string;
  readonly state: Partial<State> & Pick<State, "view">;
}

/** An exercise with numbers. */
export interface Instance {
  readonly given: string;
  /** Matrices that the questions are about, by name. */
  readonly matrices?: readonly (readonly [name: string, values: Tensor])[];
  readonly questions: readonly Question[];
  readonly links: readonly Link[];
  /** Python code that prints the answers as a list. */
  readonly code: string;
}

export interface Exercise {
  readonly title: string;
  readonly text: string;
  readonly draw: (random: Random) => Instance;
}

/** Draws whole numbers, from a seed. */
export interface Random {
  whole(least: number, most: number): number;
  pick<T>(options: readonly T[]): T;
}

export function randomOf(seed: number): Random {
  const next = randomNumbers(seed);
  const whole = (least: number, most: number): number => least + Math.floor(next() * (most - least + 1));
  return { whole, pick: (options) => options[whole(0, options.length - 1)]! };
}

interface Sizes {
  readonly channels: readonly [into: number, out: number];
  readonly size: readonly [height: number, width: number];
  readonly kernel: readonly [height: number, width: number];
  readonly padding?: readonly [rows: number, columns: number];
  readonly stride?: readonly [rows: number, columns: number];
  readonly groups?: number;
}

export function layerOf({ channels, size, kernel, padding = [0, 0], stride = [1, 1], groups = 1 }: Sizes): Layer {
  const axis = (place: 0 | 1) => ({
    ...SINGLE,
    size: size[place],
    kernel: kernel[place],
    stride: stride[place],
    before: padding[place],
    after: padding[place],
  });
  return {
    axes: 2,
    inChannels: channels[0],
    outChannels: channels[1],
    groups,
    rows: axis(0),
    columns: axis(1),
    mode: "zeros",
    transposed: false,
    flip: false,
  };
}

export function layerState(layer: Layer, values: Partial<LayerState> = {}): LayerState {
  return { layer, x: named("random"), k: named("random", 2), bias: null, dy: named("ones"), ...values };
}
