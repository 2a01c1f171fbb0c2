/** Numbers as the page writes them. */

/** Write a number in at most six characters or so, with a true minus sign. */
export function short(value: number): string {
  if (Number.isInteger(value) && Math.abs(value) < 1e5) return String(value).replace("-", "−");
  const digits = Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toPrecision(3);
  const trimmed = digits.includes("e") ? digits.replace("e+", "e").replace(".0e", "e") : digits.replace(/\.?0+$/, "");
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

export function grouped(count: number): string {
  return count.toLocaleString("en");
}

/** Write a count with its noun. */
export function counted(count: number, noun: string, plural = `${noun}s`): string {
  return `${grouped(count)} ${count === 1 ? noun : plural}`;
}
