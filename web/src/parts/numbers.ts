/** Numbers as the page writes them. */

/** Write a number in at most six characters or so, with a true minus sign. */
export function short(value: number): string {
  if (Number.isInteger(value) && Math.abs(value) < 1e5) return String(value).replace("-", "−");
  const digits = Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toPrecision(3);
  const trimmed = digits.includes("e") ? digits.replace("e+", "e").replace(".0e", "e") : digits.replace(/\.0+$|(\.\d*?)0+$/, "$1");
  return trimmed.replaceAll("-", "−");
}

/** Write a number with up to seven digits. */
export function long(value: number): string {
  return String(Number(value.toPrecision(7))).replaceAll("-", "−");
}

/** Write a factor of a product: a negative number in parentheses. */
export function factorText(value: number): string {
  return value < 0 ? `(${long(value)})` : long(value);
}

export function grouped(count: number | bigint): string {
  return count.toLocaleString("en");
}

/** Write a count with its noun. */
export function counted(count: number, noun: string, plural = `${noun}s`): string {
  return `${grouped(count)} ${count === 1 ? noun : plural}`;
}

const PREFIXES = ["", "k", "M", "G", "T", "P", "E"] as const;

/** Write a count of any size with three digits and a prefix, such as 4.09 G. */
export function amount(value: number, unit = ""): string {
  let place = 0;
  let scaled = value;
  while (Math.abs(scaled) >= 999.5 && place < PREFIXES.length - 1) {
    scaled /= 1000;
    place++;
  }
  const digits = place ? scaled.toPrecision(3) : String(Math.round(scaled));
  const suffix = `${PREFIXES[place]}${unit}`;
  return suffix ? `${digits} ${suffix}` : digits;
}
