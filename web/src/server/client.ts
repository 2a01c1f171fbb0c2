/** Requests to the page's server, as `docs/page-api.md` describes it; whatever goes wrong is a `ServerError` in words. */

import { computed, effect, signal } from "@preact/signals";
import { token } from "./token";

/** A request that failed, in words for the reader; `status` is that of the answer, or 0 without one. */
export class ServerError extends Error {
  constructor(
    message: string,
    readonly status = 0,
  ) {
    super(message);
  }
}

export interface Picture {
  readonly id: string;
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly least: number | null;
  readonly largest: number | null;
  readonly not_finite: number;
  readonly notes: readonly string[];
}

export interface Argument {
  readonly default: number | null;
  readonly least: number;
  readonly most: number;
  readonly whole: boolean;
}

export interface About {
  readonly version: string;
  /** Name of the model on the command line. */
  readonly model: string | null;
  readonly pictures: readonly string[];
  readonly presets: Readonly<Record<string, Readonly<Record<string, Argument>>>>;
  readonly limits: { readonly upload_bytes: number; readonly pixels: number; readonly kernel: number; readonly fitted_kernel: number };
}

/** A line of a stream; the fields depend on the event. */
export interface ServerEvent {
  readonly event: string;
}

export const WORDS = {
  gone: "The server does not answer: it has ended, or cannot be reached. Start `convolith serve` again, and open the address that it prints.",
  ended: "The server ended before the computation did. Start `convolith serve` again, and open the address that it prints.",
  stopped: "The server ended the computation: it is being stopped, or the computation was cancelled from elsewhere.",
  secret: "This page does not have the secret of the server that runs: open the address that `convolith serve` printed.",
} as const;

/** Return what went wrong, in words. */
export function wordsOf(problem: unknown): string {
  return problem instanceof ServerError ? problem.message : `The page failed: ${String(problem)}.`;
}

/** Write a reason of the server as a sentence; names of fields, such as `kernel.values`, stay as they are. */
export function sentence(text: string): string {
  const trimmed = text.trim();
  const begun = /^[a-z]+[ ,]/.test(trimmed) ? trimmed.charAt(0).toUpperCase() + trimmed.slice(1) : trimmed;
  return begun + (/[.?!]$/.test(begun) ? "" : ".");
}

async function reasonOf(answer: Response): Promise<string> {
  if (answer.status === 401) return WORDS.secret;
  try {
    const { error } = (await answer.json()) as { error?: unknown };
    if (typeof error === "string" && error) return sentence(error);
  } catch {
    // no reason in JSON: a program between the page and the server answered
  }
  return `The server answered with status ${answer.status}.`;
}

/** Send a request, and return an answer that is a success. */
async function ask(path: string, options: RequestInit = {}): Promise<Response> {
  let answer: Response;
  try {
    const headers = { ...(options.headers as Record<string, string>), Authorization: `Bearer ${token.value ?? ""}` };
    answer = await fetch(`/api/${path}`, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (problem) {
    if (options.signal?.aborted) throw problem;
    throw new ServerError(WORDS.gone);
  }
  if (!answer.ok) throw new ServerError(await reasonOf(answer), answer.status);
  return answer;
}

/** Read a body that may break off, as it does when the server ends. */
async function read<T>(body: Promise<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await body;
  } catch (problem) {
    if (signal?.aborted) throw problem;
    throw new ServerError(WORDS.gone);
  }
}

function asJson(request: unknown): RequestInit {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) };
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  const answer = await ask(path, signal ? { signal } : {});
  return read(answer.json() as Promise<T>, signal);
}

export async function postJson<T>(path: string, request: unknown, signal?: AbortSignal): Promise<T> {
  const answer = await ask(path, { ...asJson(request), ...(signal && { signal }) });
  return read(answer.json() as Promise<T>, signal);
}

/** Names of the files that were uploaded, by identifier, for the code to copy. */
export const fileNames = new Map<string, string>();

/** Upload a PNG, a JPEG or a .npy file as it is. */
export async function upload(file: Blob, most = Infinity): Promise<Picture> {
  const name = file instanceof File ? file.name : "";
  if (file.size > most) {
    const given = `${name || "The file"} has ${(file.size / 1e6).toFixed(0)} MB`;
    throw new ServerError(`${given}; the server takes at most ${(most / 1e6).toFixed(0)} MB.`, 413);
  }
  const answer = await ask("picture", { method: "PUT", body: file });
  const picture = await read(answer.json() as Promise<Picture>);
  if (name) fileNames.set(picture.id, name);
  return picture;
}

export function pictureAbout(id: string, signal?: AbortSignal): Promise<Picture> {
  return getJson<Picture>(`picture/${encodeURIComponent(id)}/about`, signal);
}

/** How the values of a picture are shown. */
export interface Shades {
  /** Values shown as black and white; the usual ones if null. */
  readonly low?: number | null;
  readonly high?: number | null;
  /** Whether blue, white at zero and red stand for negative and positive values. */
  readonly diverging?: boolean;
}

/** A picture to be shown, the values that its darkest and lightest colours stand for, and how many lie beyond. */
export interface Shown {
  readonly blob: Blob;
  readonly low: number;
  readonly high: number;
  readonly clipped: number;
}

export async function pictureBlob(id: string, shades: Shades = {}, signal?: AbortSignal): Promise<Shown> {
  const query = new URLSearchParams();
  if (shades.low != null) query.set("low", String(shades.low));
  if (shades.high != null) query.set("high", String(shades.high));
  if (shades.diverging) query.set("diverging", "1");
  const answer = await ask(`picture/${encodeURIComponent(id)}?${query}`, signal ? { signal } : {});
  const blob = await read(answer.blob(), signal);
  const header = (name: string): number => Number(answer.headers.get(`X-Convolith-${name}`));
  return { blob, low: header("Low"), high: header("High"), clipped: header("Clipped") };
}

/** Return the numbers of a picture as a .npy file. */
export async function pictureNumbers(id: string, signal?: AbortSignal): Promise<ArrayBuffer> {
  const answer = await ask(`picture/${encodeURIComponent(id)}?as=npy`, signal ? { signal } : {});
  return read(answer.arrayBuffer(), signal);
}

/** Offer a file to be saved. */
export function save(contents: Blob, name: string): void {
  const address = URL.createObjectURL(contents);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Send a computation, and yield its events as they come; aborting the signal ends it. */
export async function* events<E extends ServerEvent>(path: string, request: unknown, signal: AbortSignal): AsyncGenerator<E> {
  const answer = await ask(path, { ...asJson(request), signal });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await read(reader.read(), signal);
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop()!;
      for (const line of lines) if (line) yield JSON.parse(line) as E;
    }
  } finally {
    reader.cancel().catch(() => undefined); // a stream that broke off cannot be cancelled, and need not be
  }
}

/** Cancel a computation; one that has ended meanwhile is no problem. */
export async function cancel(id: string): Promise<void> {
  try {
    await postJson(`cancel/${encodeURIComponent(id)}`, {});
  } catch (problem) {
    if (!(problem instanceof ServerError && problem.status === 404)) throw problem;
  }
}

/** What the server offers, once it has said so. */
export const about = signal<About | null>(null);
/** Why it has not, in words. */
export const aboutProblem = signal("");
export const hasServer = computed(() => token.value !== null);

/** Ask the server what it offers, now and whenever another secret is given. */
export function followAbout(): void {
  effect(() => {
    if (token.value !== null) void askAbout();
  });
}

export async function askAbout(): Promise<void> {
  aboutProblem.value = "";
  try {
    about.value = await getJson<About>("about");
  } catch (problem) {
    aboutProblem.value = wordsOf(problem);
  }
}
