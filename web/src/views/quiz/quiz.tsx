/** The view "Quiz": the exercises of the chapter, to be predicted and then revealed. */

import { computed, signal } from "@preact/signals";
import { useId, useRef } from "preact/hooks";
import { short } from "../../parts/numbers";
import { Choice } from "../../parts/controls";
import { Code } from "../../parts/code";
import { Formula, mi, mn, mo } from "../../parts/formula";
import { nested, type Tensor } from "../../core";
import { another, type QuizState } from "../../state";
import { addressOf, goTo, quizState, setPart } from "../../state/store";
import { judge, predict, predictionOf, score, startAgain, type Verdict } from "./answers";
import { type Exercise, type Link, type Question, randomOf } from "./exercise";
import { BLOCKS, COST, DOUBLED, ONE_BY_ONE, STRIPS } from "./exercises_of_costs";
import { AS_A_MATRIX, EXACTLY_THE_SAME, TWO_KERNELS } from "./exercises_of_kernels";

/** In the chapter's order. */
const EXERCISES: readonly Exercise[] = [
  TWO_KERNELS,
  COST,
  DOUBLED,
  EXACTLY_THE_SAME,
  AS_A_MATRIX,
  STRIPS,
  BLOCKS,
  ONE_BY_ONE,
];

const instance = computed(() => {
  const { exercise, seed } = quizState.value;
  return EXERCISES[exercise - 1]!.draw(randomOf(seed * EXERCISES.length + exercise));
});

export function Quiz() {
  const quiz = quizState.value;
  const { title, text } = EXERCISES[quiz.exercise - 1]!;
  const { given, matrices, questions, links, code } = instance.value;
  return (
    <div class="view quiz">
      <div class="main">
        <p class="lead">
          The exercises of the chapter, with numbers. <strong>Predict</strong>, then reveal the answer and why it is so.
        </p>
        <Steps quiz={quiz} />
        <section class="card" aria-label="The exercise">
          <h2>
            {quiz.exercise}. {title}
          </h2>
          <p>{text}</p>
          <p>{given}</p>
          {matrices && (
            <div class="matrices">
              {matrices.map(([name, values]) => (
                <Matrix key={name} name={name} values={values} />
              ))}
            </div>
          )}
        </section>
        {questions.map((question, n) => (
          <Asked key={`${quiz.exercise}.${quiz.seed}.${n}`} {...{ quiz, question, n }} />
        ))}
        <section class="card" aria-label="To look at">
          <h2>To look at</h2>
          <ul>
            {links.map((link) => (
              <li key={link.text}>
                <Go {...link} />
              </li>
            ))}
          </ul>
        </section>
        <Code code={code} />
      </div>
      <aside class="controls card" aria-label="Numbers and score">
        <section>
          <h2>Numbers</h2>
          <p class="note">Drawn from the seed {quiz.seed}.</p>
          <button type="button" onClick={() => setPart("quiz", another(quiz))}>
            Other numbers
          </button>
        </section>
        <Score />
      </aside>
    </div>
  );
}

/** The exercises, to be chosen by number. */
function Steps({ quiz }: { quiz: QuizState }) {
  return (
    <div class="steps" role="group" aria-label="Exercises">
      {EXERCISES.map(({ title }, n) => (
        <button
          type="button"
          key={title}
          class={n + 1 === quiz.exercise ? "" : "quiet"}
          aria-label={`Exercise ${n + 1}: ${title}`}
          aria-current={n + 1 === quiz.exercise ? "step" : undefined}
          title={title}
          onClick={() => setPart("quiz", { exercise: n + 1 })}
        >
          {n + 1}
        </button>
      ))}
    </div>
  );
}

function Matrix({ name, values }: { name: string; values: Tensor }) {
  const rows = nested(values) as number[][];
  return (
    <Formula label={`${name} = ${JSON.stringify(rows)}`}>
      {mi(name)}
      {mo("=")}
      <mtable>
        {rows.map((numbers, i) => (
          <mtr key={i}>
            {numbers.map((value, j) => (
              <mtd key={j}>{mn(short(value))}</mtd>
            ))}
          </mtr>
        ))}
      </mtable>
    </Formula>
  );
}

const JUDGED: Record<Verdict, string> = { right: "Right: ", wrong: "Not quite: ", unpredicted: "The answer: " };

/** A question with its prediction, and with the answer once it is revealed. */
function Asked({ quiz, question, n }: { quiz: QuizState; question: Question; n: number }) {
  const id = useId();
  const said = useRef(signal("")).current;
  const { text, verdict } = predictionOf(quiz, n);
  const { ask, options, answer, why } = question;
  const reveal = (event: Event): void => {
    event.preventDefault();
    if (verdict) return;
    const judged = judge(question, text);
    const isVerdict = judged in JUDGED;
    said.value = isVerdict ? "" : judged;
    if (isVerdict) predict(quiz, n, text, judged as Verdict);
  };
  return (
    <form class={`card question ${verdict ?? ""}`} onSubmit={reveal}>
      {options ? (
        <Choice
          label={ask}
          options={options.map((option) => [option, option])}
          value={text}
          onChange={(value) => predict(quiz, n, verdict ? text : value, verdict)}
        />
      ) : (
        <label for={id}>{ask}</label>
      )}
      <div class="row">
        {!options && (
          <input
            id={id}
            inputMode="decimal"
            autocomplete="off"
            placeholder="your prediction"
            maxLength={30}
            readOnly={verdict !== null}
            aria-describedby={`${id}-said`}
            value={text}
            onInput={(event) => predict(quiz, n, event.currentTarget.value)}
          />
        )}
        <button aria-disabled={verdict !== null}>{verdict ? "Revealed" : "Reveal"}</button>
      </div>
      <div role="status" id={`${id}-said`}>
        {said.value && <p class="refusal">{said.value}</p>}
        {verdict && (
          <>
            <p class="verdict">
              {JUDGED[verdict]}
              <span class="answer">{typeof answer === "number" ? exactly(question, answer) : answer}</span>
            </p>
            <p>{why}</p>
          </>
        )}
      </div>
    </form>
  );
}

function exactly({ digits }: Question, answer: number): string {
  const shown = digits === undefined ? answer : Number(answer.toFixed(digits));
  return shown.toLocaleString("en", { maximumFractionDigits: 12 }).replace("-", "−");
}

/** A link to a view with the exercise's numbers. */
function Go({ text, state }: Link) {
  return (
    <a
      href={addressOf(state)}
      onClick={(event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        goTo(state);
      }}
    >
      {text}
    </a>
  );
}

function Score() {
  const { right, wrong, unpredicted } = score.value;
  const predicted = right + wrong;
  return (
    <section>
      <h2>Score</h2>
      <p role="status">
        {predicted ? `${right} of ${predicted} ${predicted === 1 ? "prediction" : "predictions"} right.` : "No predictions yet."}
        {unpredicted > 0 && ` ${unpredicted} revealed without one.`}
      </p>
      <p class="note">Kept until the page is closed.</p>
      {predicted + unpredicted > 0 && (
        <button type="button" class="quiet" onClick={startAgain}>
          Start again
        </button>
      )}
    </section>
  );
}
