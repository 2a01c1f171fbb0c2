/** Kernels that factor into a column and a row, and the nearest such kernel of those that do not. */

import { type Tensor, tensor } from "./tensor";

export interface Factors {
  /** Column of shape (height, 1) and row of shape (1, width), whose product is the nearest kernel of rank one. */
  readonly column: Tensor;
  readonly row: Tensor;
  readonly singularValues: readonly number[];
  /** Whether the product equals the kernel, but for rounding. */
  readonly exact: boolean;
  /** Root of the sum of the squared differences. */
  readonly error: number;
}

/** Return the singular values of a matrix, largest first, with left and right vectors (one-sided Jacobi). */
export function singularValues(
  rows: number,
  columns: number,
  values: ArrayLike<number>,
): { values: number[]; left: number[][]; right: number[][] } {
  // The columns of `work` become orthogonal; `right` records the rotations.
  const work = Array.from({ length: columns }, (_, j) =>
    Array.from({ length: rows }, (_, i) => values[i * columns + j]!),
  );
  const right = Array.from({ length: columns }, (_, j) =>
    Array.from({ length: columns }, (_, i) => (i === j ? 1 : 0)),
  );
  const dot = (a: number[], b: number[]): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  for (let sweep = 0; sweep < 60; sweep++) {
    let rotated = false;
    for (let p = 0; p < columns - 1; p++) {
      for (let q = p + 1; q < columns; q++) {
        const [alpha, beta] = [dot(work[p]!, work[p]!), dot(work[q]!, work[q]!)];
        const gamma = dot(work[p]!, work[q]!);
        if (Math.abs(gamma) <= 1e-15 * Math.sqrt(alpha * beta) || gamma === 0) continue;
        rotated = true;
        const zeta = (beta - alpha) / (2 * gamma);
        const t = (zeta >= 0 ? 1 : -1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const c = 1 / Math.sqrt(1 + t * t);
        for (const vectors of [work, right]) {
          const [a, b] = [vectors[p]!, vectors[q]!];
          for (let i = 0; i < a.length; i++) {
            const old = a[i]!;
            a[i] = c * old - c * t * b[i]!;
            b[i] = c * t * old + c * b[i]!;
          }
        }
      }
    }
    if (!rotated) break;
  }
  const norms = work.map((column) => Math.sqrt(dot(column, column)));
  const order = norms.map((_, j) => j).sort((a, b) => norms[b]! - norms[a]!);
  return {
    values: order.map((j) => norms[j]!),
    left: order.map((j) => work[j]!.map((value) => (norms[j] ? value / norms[j]! : 0))),
    right: order.map((j) => right[j]!),
  };
}

/** Factor a kernel of shape (height, width) into a column and a row. */
export function factor(kernel: Tensor): Factors {
  const [height, width] = kernel.shape as [number, number];
  const svd = singularValues(height, width, kernel.data);
  const largest = svd.values[0]!;
  const error = Math.sqrt(svd.values.slice(1).reduce((sum, value) => sum + value * value, 0));
  const exact = error <= 1e-12 * largest;
  let column = svd.left[0]!.map((value) => value * Math.sqrt(largest));
  let row = svd.right[0]!.map((value) => value * Math.sqrt(largest));
  if (exact && largest > 0) {
    // A row of the kernel itself, divided by the common divisor of its whole numbers, is easier to read.
    const pivot = column.reduce((best, value, i) => (Math.abs(value) > Math.abs(column[best]!) ? i : best), 0);
    const taken = Array.from({ length: width }, (_, j) => kernel.data[pivot * width + j]!);
    const divisor = commonDivisor(taken);
    row = taken.map((value) => value / divisor);
    const norm = row.reduce((sum, value) => sum + value * value, 0);
    column = Array.from({ length: height }, (_, i) => {
      const sum = row.reduce((total, value, j) => total + value * kernel.data[i * width + j]!, 0);
      const rounded = Math.round(sum / norm);
      return Math.abs(rounded - sum / norm) < 1e-12 * Math.max(1, Math.abs(rounded)) ? rounded : sum / norm;
    });
  }
  return { column: tensor([height, 1], column), row: tensor([1, width], row), singularValues: svd.values, exact, error };
}

function commonDivisor(values: readonly number[]): number {
  const gcd = (a: number, b: number): number => (b ? gcd(b, a % b) : a);
  if (!values.every((value) => Number.isSafeInteger(value))) return 1;
  return values.reduce((common, value) => gcd(common, Math.abs(value)), 0) || 1;
}
