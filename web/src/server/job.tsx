/** A computation on the server: its stream of events, where it stands, and its end by hand. */

import { computed, signal } from "@preact/signals";
import { counted } from "../parts/numbers";
import { cancel, events, sentence, type ServerEvent, WORDS, wordsOf } from "./client";

export type Phase = "idle" | "sent" | "waiting" | "running" | "cancelling" | "done" | "cancelled" | "refused" | "failed";

/** Milliseconds for a cancelled job to say so; then its stream is closed, which ends it too. */
const CANCEL_DELAY = 400;

interface CommonEvent extends ServerEvent {
  readonly id?: string;
  readonly ahead?: number;
  readonly reason?: string;
  readonly engine?: string;
  readonly part?: number;
}

/** One computation at a time of one kind; a new one ends the one before. */
export class Job<E extends ServerEvent> {
  readonly phase = signal<Phase>("idle");
  /** Why the job was refused or failed, in words. */
  readonly reason = signal("");
  /** Number of computations that were to be done before this one. */
  readonly ahead = signal(0);
  readonly progress = signal<{ readonly engine: string; readonly part: number } | null>(null);
  readonly isActive = computed(() => ["sent", "waiting", "running", "cancelling"].includes(this.phase.value));
  private current: AbortController | null = null;
  private id: string | null = null;

  /** `path` is the address below `/api/`; `inWords` says the server's reasons in the words of a view. */
  constructor(
    private readonly path: string,
    private readonly inWords: (reason: string) => string = (reason) => reason,
  ) {}

  /** Send a request; `onEvent` gets the events of this kind of job. Never throws: `phase` and `reason` say how it ended. */
  async start(request: unknown, onEvent: (event: E) => void): Promise<void> {
    this.current?.abort();
    const own = new AbortController();
    this.current = own;
    this.id = null;
    this.ahead.value = 0;
    this.progress.value = null;
    this.reason.value = "";
    this.phase.value = "sent";
    try {
      for await (const event of events<E & CommonEvent>(this.path, request, own.signal)) {
        if (this.current !== own) return;
        this.follow(event, onEvent);
      }
      if (this.current === own && this.isActive.value) this.fail(WORDS.ended);
    } catch (problem) {
      if (this.current !== own) return;
      if (own.signal.aborted || (this.phase.value as Phase) === "cancelling") this.phase.value = "cancelled";
      else this.fail(this.id !== null && wordsOf(problem) === WORDS.gone ? WORDS.ended : wordsOf(problem));
    }
  }

  private fail(reason: string): void {
    this.reason.value = reason;
    this.phase.value = "failed";
  }

  private follow(event: E & CommonEvent, onEvent: (event: E) => void): void {
    switch (event.event) {
      case "job":
        this.id = event.id ?? null;
        this.ahead.value = event.ahead ?? 0;
        if (this.phase.value === "sent") this.phase.value = "waiting";
        break;
      case "started":
        if (this.phase.value !== "cancelling") this.phase.value = "running";
        break;
      case "progress":
        this.progress.value = { engine: event.engine ?? "", part: event.part ?? 0 };
        break;
      case "cancelled":
        if (this.phase.value === "cancelling") this.phase.value = "cancelled";
        else this.fail(WORDS.stopped);
        break;
      case "done":
      case "refused":
      case "failed":
        this.reason.value = event.reason ? sentence(this.inWords(event.reason)) : "";
        this.phase.value = event.event;
        break;
      default:
        onEvent(event);
    }
  }

  /** End the computation; once it has ended or is ending, do nothing. */
  cancel(): void {
    const { current } = this;
    if (!current || !this.isActive.value || this.phase.value === "cancelling") return;
    this.phase.value = "cancelling";
    if (this.id === null) {
      current.abort();
      return;
    }
    cancel(this.id).catch(() => current.abort());
    setTimeout(() => this.phase.value === "cancelling" && this.current === current && current.abort(), CANCEL_DELAY);
  }
}

function phaseText<E extends ServerEvent>(job: Job<E>): string {
  const progress = job.progress.value;
  switch (job.phase.value) {
    case "sent":
      return "Sent to the server …";
    case "waiting":
      return job.ahead.value
        ? `Waits: ${counted(job.ahead.value, "computation")} ${job.ahead.value === 1 ? "is" : "are"} to end before it.`
        : "Waits for its turn …";
    case "running":
      return progress ? `Computing with ${progress.engine} …` : "Computing …";
    case "cancelling":
      return "Cancelling …";
    case "cancelled":
      return "Cancelled.";
    default:
      return "";
  }
}

/** Where a computation stands, in words, with a bar where it is known and a button that cancels it. */
export function JobStatus<E extends ServerEvent>({ job, done = "" }: { job: Job<E>; done?: string }) {
  const phase = job.phase.value;
  const progress = job.progress.value;
  return (
    <div class="job">
      <span role="status">{phase === "done" ? done : phaseText(job)}</span>
      {phase === "running" && progress && (
        <progress value={progress.part} max={1} aria-label={`Part computed with ${progress.engine}`} />
      )}
      {job.isActive.value && (
        <button type="button" class="quiet" disabled={phase === "cancelling"} onClick={() => job.cancel()}>
          Cancel
        </button>
      )}
      <div role="alert" class="refusal">
        {job.reason.value}
      </div>
    </div>
  );
}
