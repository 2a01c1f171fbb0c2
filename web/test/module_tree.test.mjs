// The tree of a model's modules: what is shown at a depth, what was opened by hand, parents and places, the most bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as core from "../build/core.mjs";

const DEPTHS = [0, 1, 2, 2, 1, 2, 3, 1];

test("rows are shown down to a depth, except those that were opened or closed by hand", () => {
  const shown = (depth, ...toggled) => core.visibleRows(DEPTHS, depth, new Set(toggled));
  assert.deepEqual(shown(0), [0]);
  assert.deepEqual(shown(1), [0, 1, 4, 7]);
  assert.deepEqual(shown(9), [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(shown(1, 4), [0, 1, 4, 5, 7]);
  assert.deepEqual(shown(1, 4, 5), [0, 1, 4, 5, 6, 7]);
  assert.deepEqual(shown(9, 1, 5), [0, 1, 4, 5, 7]);
  assert.deepEqual(shown(9, 0), [0]);
});

test("every row has a parent, and a place among its siblings", () => {
  const parents = core.parentsOf(DEPTHS);
  assert.deepEqual(parents, [-1, 0, 1, 1, 0, 4, 5, 0]);
  const places = core.placesOf(parents);
  assert.deepEqual(places.map(({ place }) => place), [1, 1, 1, 2, 2, 1, 1, 3]);
  assert.deepEqual(places.map(({ of }) => of), [1, 3, 2, 2, 3, 1, 1, 3]);
});

test("a module holds the most bytes of the moments in it", () => {
  const most = core.mostBytes(["", "a", "a.b", "c", "a.b.d"], [5, 2, 7, 9, 8]);
  assert.deepEqual(Object.fromEntries(most), { "": 9, a: 8, "a.b": 8, c: 9, "a.b.d": 8 });
});
