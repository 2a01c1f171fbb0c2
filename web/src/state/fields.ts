/** Fields of an address fragment: each is read with its bounds and refused in words, and written only if not the default. */

import { type Fill, FILLS, type FillName, sizeOf, tensor } from "../core";

export type Bounds = readonly [least: number, most: number];

/** Reads the entries of a fragment, and collects what is wrong with them. */
export class Reader {
  readonly problems: string[] = [];
  private readonly unread: Set<string>;

  constructor(private readonly entries: ReadonlyMap<string, string>) {
    this.unread = new Set(entries.keys());
  }

  text(key: string): string | null {
    this.unread.delete(key);
    return this.entries.get(key) ?? null;
  }

  refuse(key: string, expected: string): void {
    const value = this.entries.get(key) ?? "";
    const shown = value.length > 40 ? `${value.slice(0, 40)}… (${value.length} characters)` : value;
    this.problems.push(`${key} is “${shown}” in the address; expected ${expected}. The usual value is shown instead.`);
  }

  choice<T extends string>(key: string, options: readonly T[], usual: T): T {
    const value = this.text(key);
    if (value === null || (options as readonly string[]).includes(value)) return (value ?? usual) as T;
    this.refuse(key, `one of ${options.join(", ")}`);
    return usual;
  }

  flag(key: string): boolean {
    return this.choice(key, ["0", "1"], "0") === "1";
  }

  /** Read whole numbers joined by "x" or "-", each within the bounds. */
  wholes(key: string, usual: readonly number[], [least, most]: Bounds): number[] {
    const value = this.text(key);
    if (value === null) return [...usual];
    const parts = value.split(/[x-]/);
    const numbers = parts.map((part) => (/^\d{1,9}$/.test(part) ? Number(part) : NaN));
    if (parts.length === usual.length && numbers.every((n) => n >= least && n <= most)) return numbers;
    const count = usual.length === 1 ? "a whole number" : `${usual.length} whole numbers joined by x`;
    this.refuse(key, `${count} from ${least} to ${most}`);
    return [...usual];
  }

  whole(key: string, usual: number, bounds: Bounds): number {
    return this.wholes(key, [usual], bounds)[0]!;
  }

  /** Read values for a shape: a name, `random.SEED`, or as many numbers as the shape has elements. */
  fill(key: string, shape: readonly number[], usual: Fill): Fill {
    const value = this.text(key);
    if (value === null) return usual;
    const [name, seed, ...rest] = value.split(".");
    if ((FILLS as readonly string[]).includes(name!) && !rest.length && (seed === undefined || /^\d{1,9}$/.test(seed))) {
      return { name: name as FillName, seed: Number(seed ?? 1) };
    }
    const numbers = value.split("_").map((part) => (/^-?\d+(\.\d+)?(e-?\d+)?$/i.test(part) ? Number(part) : NaN));
    if (numbers.length === sizeOf(shape) && numbers.every((n) => Number.isFinite(n) && Math.abs(n) <= LARGEST_VALUE)) {
      return { given: tensor(shape, numbers) };
    }
    this.refuse(key, `${sizeOf(shape)} numbers joined by _, or one of ${FILLS.join(", ")}`);
    return usual;
  }

  /** Name the entries that nothing has read. */
  finish(): void {
    for (const key of this.unread) {
      this.problems.push(`“${key.slice(0, 40)}” in the address belongs to nothing here, and is ignored.`);
    }
  }
}

/** Largest magnitude of a value, so that sums of products stay finite. */
export const LARGEST_VALUE = 1e100;

/** Collects the entries of a fragment that differ from the defaults. */
export class Writer {
  readonly entries = new Map<string, string>();

  put(key: string, value: string, usual: string): void {
    if (value !== usual) this.entries.set(key, value);
  }

  wholes(key: string, values: readonly number[], usual: readonly number[]): void {
    this.put(key, values.join("x"), usual.join("x"));
  }

  fill(key: string, fill: Fill, usual: Fill): void {
    this.put(key, fillText(fill), fillText(usual));
  }
}

export function fillText(fill: Fill): string {
  if ("given" in fill) return Array.from(fill.given.data, (value) => String(value).replace("+", "")).join("_");
  return fill.name === "random" ? `random.${fill.seed}` : fill.name;
}
