/** A slider for numbers of any size: fine steps for small ones, coarse for large, with a field for the exact number. */

import { useId, useRef } from "preact/hooks";

type Bounds = readonly [least: number, most: number];

/** Steps of a slider from a number to its double, once they are larger than one. */
const STEPS = 8;

/** Return the numbers that the slider reaches: each of the small ones, and larger ones about an eighth apart. */
export function stops([least, most]: Bounds): number[] {
  const found: number[] = [];
  for (let value = least; value < most; ) {
    found.push(value);
    const step = Math.max(1, 2 ** Math.floor(Math.log2(Math.max(value, 1))) / STEPS);
    value = (Math.floor(value / step) + 1) * step;
  }
  return [...found, most];
}

interface NumberSliderProps {
  readonly label: string;
  readonly value: number;
  readonly bounds: Bounds;
  readonly onChange: (value: number) => void;
}

export function NumberSlider({ label, value, bounds, onChange }: NumberSliderProps) {
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const reached = stops(bounds);
  const place = reached.filter((stop) => stop <= value).length - 1;
  const store = (): void => {
    const entered = field.current!.value.replaceAll(/[\s,]/g, "");
    const number = /^\d{1,9}$/.test(entered) ? Number(entered) : NaN;
    const valid = number >= bounds[0] && number <= bounds[1];
    field.current!.setCustomValidity(valid ? "" : `Enter a whole number from ${bounds[0]} to ${bounds[1]}`);
    if (!valid) field.current!.reportValidity();
    else if (number !== value) onChange(number);
    else field.current!.value = String(value);
  };
  return (
    <div class="control slider">
      <label for={id}>{label}</label>
      <input
        id={id}
        type="range"
        min={0}
        max={reached.length - 1}
        value={place}
        aria-valuetext={String(value)}
        onInput={(event) => onChange(reached[Number(event.currentTarget.value)]!)}
      />
      <input
        ref={field}
        class="exact"
        inputMode="numeric"
        autocomplete="off"
        aria-label={`${label}, exact number`}
        value={value}
        onChange={store}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          field.current!.value = String(value);
          field.current!.setCustomValidity("");
        }}
      />
    </div>
  );
}
