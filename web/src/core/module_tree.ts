/** A model's modules as a tree: rows in order, each with its depth; which are open, and what each holds. */

/** Return the position of each row's parent, −1 for rows of depth 0. */
export function parentsOf(depths: readonly number[]): number[] {
  const last: number[] = [];
  return depths.map((depth, row) => {
    last[depth] = row;
    return depth ? last[depth - 1]! : -1;
  });
}

/** Return the rows that are shown: all whose ancestors are open, to a depth, except those that were toggled. */
export function visibleRows(depths: readonly number[], depth: number, toggled: ReadonlySet<number>): number[] {
  const shown: number[] = [];
  let closed = Infinity;
  depths.forEach((own, row) => {
    if (own > closed) return;
    closed = isOpen(own, depth, toggled.has(row)) ? Infinity : own;
    shown.push(row);
  });
  return shown;
}

export function isOpen(own: number, depth: number, toggled: boolean): boolean {
  return own < depth !== toggled;
}

/** Return how many siblings each row has, itself included, and its place among them from 1 on. */
export function placesOf(parents: readonly number[]): { place: number; of: number }[] {
  const counts = new Map<number, number>();
  const places = parents.map((parent) => {
    const place = (counts.get(parent) ?? 0) + 1;
    counts.set(parent, place);
    return place;
  });
  return parents.map((parent, row) => ({ place: places[row]!, of: counts.get(parent)! }));
}

/** Return the most bytes of the moments of each module, with those of the modules within it, by full name. */
export function mostBytes(modules: readonly string[], bytes: readonly number[]): Map<string, number> {
  const most = new Map<string, number>();
  modules.forEach((module, moment) => {
    for (let name = module; ; name = name.slice(0, Math.max(name.lastIndexOf("."), 0))) {
      most.set(name, Math.max(most.get(name) ?? 0, bytes[moment]!));
      if (!name) return;
    }
  });
  return most;
}
