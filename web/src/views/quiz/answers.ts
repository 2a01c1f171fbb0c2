/** Predictions of the session and the score; they are forgotten when the page closes. */

import { computed, signal } from "@preact/signals";
import type { QuizState } from "../../state";
import type { Question } from "./exercise";

export type Verdict = "right" | "wrong" | "unpredicted";

export interface Prediction {
  readonly text: string;
  /** Null until the answer is revealed. */
  readonly verdict: Verdict | null;
}

const NOTHING: Prediction = { text: "", verdict: null };
const predictions = signal<ReadonlyMap<string, Prediction>>(new Map());

const keyOf = ({ exercise, seed }: QuizState, question: number): string => `${exercise}.${seed}.${question}`;

export function predictionOf(quiz: QuizState, question: number): Prediction {
  return predictions.value.get(keyOf(quiz, question)) ?? NOTHING;
}

export function predict(quiz: QuizState, question: number, text: string, verdict: Verdict | null = null): void {
  predictions.value = new Map(predictions.value).set(keyOf(quiz, question), { text, verdict });
}

export const score = computed(() => {
  const count = { right: 0, wrong: 0, unpredicted: 0 };
  for (const { verdict } of predictions.value.values()) if (verdict) count[verdict]++;
  return count;
});

/** Forget all predictions. */
export function startAgain(): void {
  predictions.value = new Map();
}

/** Read a number, also with commas between thousands or as a fraction such as 7/3; null if it is none. */
export function readNumber(text: string): number | null {
  const match = /^(-?\d*\.?\d+)(?:\/(\d*\.?\d+))?$/.exec(text.replace(/[\s,]/g, "").replace("−", "-"));
  if (!match) return null;
  const value = Number(match[1]) / Number(match[2] ?? 1);
  return Number.isFinite(value) ? value : null;
}

/** Judge a prediction, or say why it cannot be judged. */
export function judge(question: Question, text: string): Verdict | string {
  if (!text.trim()) return "unpredicted";
  if (question.options) return text === question.answer ? "right" : "wrong";
  const value = readNumber(text);
  if (value === null) return `“${text.slice(0, 20)}” is no number: write one such as 12, 1.5 or 7/3.`;
  const margin = question.digits === undefined ? 0 : 0.5001 * 10 ** -question.digits;
  return Math.abs(value - (question.answer as number)) <= margin ? "right" : "wrong";
}
