/** What several views of the server need: a picture by its name, a kernel's numbers, a place to drop files. */

import { signal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";
import { about, type Picture, pictureAbout, postJson, upload, wordsOf } from "./client";

export interface Loaded<T> {
  readonly value: T | null;
  /** Why there is none, in words. */
  readonly problem: string;
}

const NOTHING = { value: null, problem: "" };

/** Load something anew whenever the key changes, after a pause; the value before stays until then. */
function useLoaded<T>(key: string | null, load: (abort: AbortSignal) => Promise<T>, pause = 0): Loaded<T> {
  const loaded = useRef(signal<Loaded<T>>(NOTHING)).current;
  useEffect(() => {
    if (key === null) {
      loaded.value = NOTHING;
      return;
    }
    const own = new AbortController();
    const timer = setTimeout(() => {
      load(own.signal).then(
        (value) => !own.signal.aborted && (loaded.value = { value, problem: "" }),
        (problem: unknown) => !own.signal.aborted && (loaded.value = { value: null, problem: wordsOf(problem) }),
      );
    }, pause);
    return () => {
      clearTimeout(timer);
      own.abort();
    };
  }, [key]);
  return loaded.value;
}

/** Return what the server says of a picture; null for none. */
export function usePicture(id: string | null): Loaded<Picture> {
  return useLoaded(id, (abort) => pictureAbout(id!, abort));
}

export interface KernelNumbers {
  readonly shape: readonly [number, number];
  readonly values: readonly (readonly number[])[];
  readonly sum: number;
  readonly rank: number;
}

/** Milliseconds without a change before a kernel is asked for: a slider that is moved asks once. */
const KERNEL_PAUSE = 80;

/** Return the numbers of a kernel in the server's form, such as `{"preset": "gaussian", "arguments": {}}`. */
export function useKernel(choice: unknown): Loaded<KernelNumbers> {
  const key = choice === null ? null : JSON.stringify(choice);
  return useLoaded(key, (abort) => postJson<KernelNumbers>("kernel", { kernel: choice }, abort), KERNEL_PAUSE);
}

interface UploadProps {
  readonly label: string;
  readonly onPicture: (picture: Picture) => void;
  /** Kinds of files, as a file field takes them. */
  readonly accept?: string;
}

/** A place where a file is dropped, or chosen by a button. */
export function Upload({ label, onPicture, accept = ".png,.jpg,.jpeg,.npy" }: UploadProps) {
  const id = useId();
  const state = useRef({ said: signal(""), problem: signal(""), isOver: signal(false), latest: 0 }).current;
  const field = useRef<HTMLInputElement>(null);
  const send = async (file: File | undefined): Promise<void> => {
    if (!file) return;
    const number = ++state.latest;
    state.problem.value = "";
    state.said.value = `Sending ${file.name} …`;
    try {
      const picture = await upload(file, about.value?.limits.upload_bytes);
      if (number !== state.latest) return;
      state.said.value = `${file.name}: ${picture.shape.join(" × ")}, ${picture.dtype}.`;
      onPicture(picture);
    } catch (problem) {
      if (number !== state.latest) return;
      state.said.value = "";
      state.problem.value = wordsOf(problem);
    }
  };
  const over = (event: DragEvent, isOver: boolean): void => {
    event.preventDefault();
    state.isOver.value = isOver;
  };
  return (
    <div
      class={state.isOver.value ? "upload over" : "upload"}
      onDragOver={(event) => over(event, true)}
      onDragLeave={(event) => over(event, false)}
      onDrop={(event) => {
        over(event, false);
        void send(event.dataTransfer?.files[0]);
      }}
    >
      <label for={id}>{label}</label>
      <input
        id={id}
        ref={field}
        type="file"
        accept={accept}
        onChange={(event) => {
          void send(event.currentTarget.files?.[0]);
          event.currentTarget.value = ""; // so that the same file can be chosen again
        }}
      />
      <p role="status" class="note">
        {state.said.value || "or drop one here: PNG, JPEG or .npy"}
      </p>
      <p role="alert" class="refusal">
        {state.problem.value}
      </p>
    </div>
  );
}
