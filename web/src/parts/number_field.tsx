/** A field for a number within bounds, or for none; what is no such number is refused in words. */

import { useSignal } from "@preact/signals";
import { useId } from "preact/hooks";

interface NumberFieldProps {
  readonly label: string;
  readonly value: number | null;
  readonly bounds: readonly [number, number];
  readonly onChange: (value: number | null) => void;
  readonly whole?: boolean;
  /** Text that stands for no number, where none is allowed. */
  readonly none?: string;
  readonly note?: string;
}

export function NumberField({ label, value, bounds: [least, most], onChange, whole = false, none, note }: NumberFieldProps) {
  const id = useId();
  const said = useSignal("");
  const read = (text: string): void => {
    const trimmed = text.trim();
    if (!trimmed && none !== undefined) {
      said.value = "";
      onChange(null);
      return;
    }
    const number = /^\d*\.?\d+(e[+-]?\d+)?$/i.test(trimmed) ? Number(trimmed) : NaN;
    const fits = number >= least && number <= most && (!whole || Number.isInteger(number));
    said.value = fits ? "" : `Expected a ${whole ? "whole " : ""}number from ${least} to ${most}${none === undefined ? "" : ", or nothing"}.`;
    if (fits) onChange(number);
  };
  return (
    <div class="control field">
      <label for={id}>{label}</label>
      <input
        id={id}
        inputMode={whole ? "numeric" : "decimal"}
        autocomplete="off"
        placeholder={none ?? ""}
        value={value === null ? "" : String(value)}
        aria-describedby={`${id}-said`}
        aria-invalid={said.value !== ""}
        onChange={(event) => read(event.currentTarget.value)}
      />
      {note && <span class="note">{note}</span>}
      <p class="refusal" id={`${id}-said`} role="status">
        {said.value}
      </p>
    </div>
  );
}
