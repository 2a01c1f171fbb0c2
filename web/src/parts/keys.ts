/** Keys that lead from a cell of a grid to another. */

/** Return the cell that a key leads to, from first to last along each axis, or null if the key leads nowhere. */
export function cellByKey(
  event: KeyboardEvent,
  [row, column]: readonly [number, number],
  rows: readonly [first: number, last: number],
  columns: readonly [first: number, last: number],
): [number, number] | null {
  const whole = event.ctrlKey;
  switch (event.key) {
    case "ArrowUp":
      return [Math.max(row - 1, rows[0]), column];
    case "ArrowDown":
      return [Math.min(row + 1, rows[1]), column];
    case "ArrowLeft":
      return [row, Math.max(column - 1, columns[0])];
    case "ArrowRight":
      return [row, Math.min(column + 1, columns[1])];
    case "Home":
      return [whole ? rows[0] : row, columns[0]];
    case "End":
      return [whole ? rows[1] : row, columns[1]];
    default:
      return null;
  }
}
