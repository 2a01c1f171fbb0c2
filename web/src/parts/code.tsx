/** Code that computes the numbers that a view shows, with a button that copies it. */

import { signal } from "@preact/signals";
import { useRef } from "preact/hooks";

interface CodeProps {
  readonly code: string;
  readonly title?: string;
  /** Name of the code, for those who do not see it. */
  readonly label?: string;
  readonly note?: string;
}

export function Code({ code, title = "Copy as Python", label = "Python code", note = "" }: CodeProps) {
  const text = useRef<HTMLPreElement>(null);
  const said = useRef(signal("")).current;
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(code);
      said.value = "Copied.";
    } catch {
      getSelection()?.selectAllChildren(text.current!);
      said.value = "The browser does not let the page copy: the code is selected, press Ctrl+C.";
    }
  };
  return (
    <details class="card code">
      <summary>{title}</summary>
      {note && <p class="note">{note}</p>}
      <div class="row">
        <button type="button" onClick={() => void copy()}>
          Copy
        </button>
        <span role="status">{said.value}</span>
      </div>
      <pre ref={text} tabIndex={0} aria-label={label}>
        {code}
      </pre>
    </details>
  );
}
