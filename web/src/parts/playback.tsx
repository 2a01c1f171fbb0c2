/** Steps through a list of cells, one after another or played. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Cell } from "../state";
import { sameCell } from "../state";
import { playing } from "../state/store";
import type { Board } from "./board";
import { Slider } from "./controls";

const SPEEDS = [1, 2, 4, 8, 16] as const;
const speed = signal(1);

export function Playback({ board, cells, noun }: { board: Board; cells: readonly Cell[]; noun: string }) {
  const placeOf = (shown: Cell | undefined): number => cells.findIndex((cell) => sameCell(cell, shown ?? null));
  const current = placeOf(board.explanation.value?.cell);
  const go = (position: number): void => board.pointAt(cells[(position + cells.length) % cells.length]!, true);
  useEffect(() => {
    if (!playing.value) return;
    const timer = setInterval(() => {
      go(placeOf(board.explanation.peek()?.cell) + 1);
    }, 1000 / SPEEDS[speed.value]!);
    return () => clearInterval(timer);
  }, [playing.value, speed.value, cells]);
  return (
    <div class="playback">
      <button type="button" class="quiet" aria-label={`Previous ${noun}`} onClick={() => go(current - 1)}>
        ◂
      </button>
      <button type="button" onClick={() => (playing.value = !playing.value)}>
        {playing.value ? "Pause" : "Play"}
      </button>
      <button type="button" class="quiet" aria-label={`Next ${noun}`} onClick={() => go(current + 1)}>
        ▸
      </button>
      <Slider
        label="Step"
        value={current + 1}
        bounds={[1, cells.length]}
        shown={current < 0 ? `– of ${cells.length}` : `${current + 1} of ${cells.length}`}
        onChange={(value) => go(value - 1)}
      />
      <Slider
        label="Speed"
        value={speed.value}
        bounds={[0, SPEEDS.length - 1]}
        shown={`${SPEEDS[speed.value]} per s`}
        onChange={(value) => (speed.value = value)}
      />
    </div>
  );
}
