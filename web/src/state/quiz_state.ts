/** State of the view "Quiz": the exercise, and the seed that its numbers are drawn from. */

import type { Reader, Writer } from "./fields";

export interface QuizState {
  readonly exercise: number;
  readonly seed: number;
}

export const QUIZ_BOUNDS = { exercise: [1, 8], seed: [1, 999_999] } as const;

export const FIRST_QUIZ: QuizState = { exercise: 1, seed: 1 };

export function readQuizState(reader: Reader): QuizState {
  return {
    exercise: reader.whole("quiz", FIRST_QUIZ.exercise, QUIZ_BOUNDS.exercise),
    seed: reader.whole("quiz.seed", FIRST_QUIZ.seed, QUIZ_BOUNDS.seed),
  };
}

export function writeQuizState({ exercise, seed }: QuizState, writer: Writer): void {
  writer.wholes("quiz", [exercise], [FIRST_QUIZ.exercise]);
  writer.wholes("quiz.seed", [seed], [FIRST_QUIZ.seed]);
}

/** Return the state of other numbers for the same exercise. */
export function another({ exercise, seed }: QuizState): QuizState {
  return { exercise, seed: (seed % QUIZ_BOUNDS.seed[1]) + 1 };
}
