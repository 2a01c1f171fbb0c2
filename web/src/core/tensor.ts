/** Arrays of float64 numbers with a shape, in row-major order. */

export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

export function zeros(shape: readonly number[]): Tensor {
  return { shape, data: new Float64Array(sizeOf(shape)) };
}

export function tensor(shape: readonly number[], values: ArrayLike<number>): Tensor {
  if (values.length !== sizeOf(shape)) {
    throw new Error(`${values.length} values for the shape ${shape.join(" x ")}`);
  }
  return { shape, data: Float64Array.from(values) };
}

/** Return the position of an element in `data`. */
export function offset(shape: readonly number[], at: readonly number[]): number {
  let place = 0;
  for (let axis = 0; axis < shape.length; axis++) place = place * shape[axis]! + at[axis]!;
  return place;
}

export function valueAt(values: Tensor, at: readonly number[]): number {
  return values.data[offset(values.shape, at)]!;
}

/** Return the indices of the element at a position in `data`. */
export function indicesOf(shape: readonly number[], place: number): number[] {
  const at = new Array<number>(shape.length);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    at[axis] = place % shape[axis]!;
    place = Math.floor(place / shape[axis]!);
  }
  return at;
}

export function largestMagnitude(values: Tensor): number {
  let most = 0;
  for (const value of values.data) most = Math.max(most, Math.abs(value));
  return most;
}

/** Return the values as nested lists, without the axes in `dropped`. */
export function nested(values: Tensor, dropped: readonly number[] = []): unknown {
  const shape = values.shape.filter((_, axis) => !dropped.includes(axis));
  let place = 0;
  const build = (axis: number): unknown =>
    axis === shape.length ? values.data[place++]! : Array.from({ length: shape[axis]! }, () => build(axis + 1));
  return build(0);
}
