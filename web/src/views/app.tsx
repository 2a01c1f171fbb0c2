/** The page: its header, the views, and what was wrong with the address. */

import { Choice } from "../parts/controls";
import type { Cell, View } from "../state";
import { token } from "../server/token";
import { embedded, problems, showView, theme, type Theme, view } from "../state/store";
import { Fold, foldBoard } from "./fold/fold";
import { Backward, backwardBoard } from "./layer/backward";
import { Look, lookBoard } from "./layer/look";
import { LazyView, type Loaded, loadedView } from "./lazy_view";
import { holds } from "./make_board";
import { serverView } from "./server_view";

interface ViewEntry extends Loaded {
  readonly title: string;
  /** Whether the view needs the page's server. */
  readonly server?: boolean;
  /** Whether the view's code is in another script. */
  readonly later?: boolean;
}

/** Return a view whose code is loaded when it is opened. */
function later(name: string, title: string): ViewEntry {
  const problem = "The view cannot be loaded: more.js is not beside the page. Install Convolith anew, or open its explorer by `python -m convolith.web`.";
  return { title, component: () => <LazyView name={name} title={title} script="more" problem={problem} />, later: true };
}

const ENTRIES: Record<View, ViewEntry> = {
  look: { title: "Look", component: Look, board: lookBoard },
  backward: { title: "Backward", component: Backward, board: backwardBoard },
  fold: { title: "Fold", component: Fold, board: foldBoard },
  cost: later("cost", "Cost"),
  field: later("field", "Field"),
  quiz: later("quiz", "Quiz"),
  compute: { title: "Compute", component: serverView("compute", "Compute"), server: true },
  fit: { title: "Fit", component: serverView("fit", "Fit"), server: true },
  network: { title: "Network", component: serverView("network", "Network"), server: true },
};

/** Return whether the view that is shown has a cell, or may have it once its code is there. */
export function exists(cell: Cell): boolean {
  const entry = ENTRIES[view.value];
  const { board } = loadedView(view.value) ?? entry;
  return board === undefined ? Boolean(entry.later) && !loadedView(view.value) : holds(board.grids.value, cell);
}

export function App() {
  const { component: Shown, title, server = false } = ENTRIES[view.value];
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
          <ViewButtons server={false} />
          {token.value !== null && <ViewButtons server />}
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
      <Footer server={server} />
    </>
  );
}

/** Buttons of the views that are computed in the page, or of those that need its server. */
function ViewButtons({ server }: { server: boolean }) {
  const entries = (Object.entries(ENTRIES) as [View, ViewEntry][]).filter(([, entry]) => (entry.server ?? false) === server);
  return (
    <div class="views" role="group" aria-label={server ? "Computed by the server on this machine" : "Computed in this page"}>
      {entries.map(([name, entry]) => (
        <button
          type="button"
          key={name}
          aria-current={name === view.value ? "page" : undefined}
          onClick={() => name !== view.value && showView(name)}
        >
          {entry.title}
        </button>
      ))}
    </div>
  );
}

function Footer({ server }: { server: boolean }) {
  const where = server
    ? token.value === null
      ? "Nothing is sent anywhere without the server, which runs on your own machine."
      : "Computed by Convolith on this machine: pictures and numbers are sent to its own server only, and to nowhere else."
    : "Computed in this page, in float64; nothing is sent anywhere.";
  return (
    <footer>
      {where}
      {!embedded && " The address holds what you see: copy it to share it."}
    </footer>
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
