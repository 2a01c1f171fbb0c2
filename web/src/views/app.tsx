/** The page: its header, the views, and what was wrong with the address. */

import type { ComponentType } from "preact";
import type { Board } from "../parts/board";
import { Choice } from "../parts/controls";
import type { Cell, View } from "../state";
import { problems, showView, theme, type Theme, view } from "../state/store";
import { Backward, backwardBoard } from "./layer/backward";
import { Fold, foldBoard } from "./fold/fold";
import { Look, lookBoard } from "./layer/look";
import { holds } from "./make_board";

interface ViewEntry {
  readonly title: string;
  readonly component: ComponentType;
  /** Cells that can be pointed at and pinned; absent where a view has none. */
  readonly board?: Board;
}

const ENTRIES: Record<View, ViewEntry> = {
  look: { title: "Look", component: Look, board: lookBoard },
  backward: { title: "Backward", component: Backward, board: backwardBoard },
  fold: { title: "Fold", component: Fold, board: foldBoard },
};

/** Return whether the view that is shown has a cell. */
export function exists(cell: Cell): boolean {
  const { board } = ENTRIES[view.value];
  return board !== undefined && holds(board.grids.value, cell);
}

export function App() {
  const { component: Shown, title } = ENTRIES[view.value];
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the figure
      </a>
      <header>
        <h1>
          Convolith <span>explorer</span>
        </h1>
        <nav aria-label="Views">
          {(Object.entries(ENTRIES) as [View, ViewEntry][]).map(([name, entry]) => (
            <button
              type="button"
              key={name}
              aria-current={name === view.value ? "page" : undefined}
              onClick={() => name !== view.value && showView(name)}
            >
              {entry.title}
            </button>
          ))}
        </nav>
        <Choice<Theme>
          label="Colours"
          options={[
            ["auto", "auto"],
            ["light", "light"],
            ["dark", "dark"],
          ]}
          value={theme.value}
          onChange={(value) => (theme.value = value)}
        />
      </header>
      <Problems />
      <main id="main" tabIndex={-1} aria-label={title}>
        <Shown />
      </main>
      <footer>
        Computed in this page, in float64; nothing is sent anywhere. The address holds what you see: copy it to share it.
      </footer>
    </>
  );
}

/** Move the focus without changing the address, which holds the state. */
function skip(event: Event): void {
  event.preventDefault();
  const main = document.querySelector<HTMLElement>("main");
  (main?.querySelector<SVGElement>('[role="grid"] [tabindex="0"]') ?? main)?.focus();
}

function Problems() {
  const found = problems.value;
  return (
    <div role="alert">
      {found.length > 0 && (
        <div class="card problems">
          <ul>
            {found.slice(0, 8).map((text) => (
              <li key={text}>{text}</li>
            ))}
            {found.length > 8 && <li>And {found.length - 8} more.</li>}
          </ul>
          <button type="button" class="quiet" onClick={() => (problems.value = [])}>
            Understood
          </button>
        </div>
      )}
    </div>
  );
}
