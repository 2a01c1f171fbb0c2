/** Views whose code is a script of its own, which is loaded when one of them is opened. */

import { type ReadonlySignal, signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";
import { checkPin } from "../state/store";
import type { Grids } from "./make_board";

/** A view, and its cells that can be pointed at and pinned, if it has any. */
export interface Loaded {
  readonly component: ComponentType;
  readonly board?: { readonly grids: ReadonlySignal<Grids> };
}

const views = signal<Readonly<Record<string, Loaded>>>({});
/** Scripts that were asked for, and those that did not come. */
const asked = new Set<string>();
const missing = signal<readonly string[]>([]);

/** Give views; called by their script as it starts. */
export function registerViews(given: Readonly<Record<string, Loaded>>): void {
  views.value = { ...views.value, ...given };
  checkPin();
}

/** Return a view whose script is there, or undefined. */
export function loadedView(name: string): Loaded | undefined {
  return views.value[name];
}

function load(name: string, hasStyle: boolean): void {
  if (asked.has(name)) return;
  asked.add(name);
  missing.value = missing.value.filter((other) => other !== name);
  if (hasStyle) {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = `${name}.css`;
    document.head.append(style);
  }
  const script = document.createElement("script");
  script.src = `${name}.js`;
  script.onerror = () => {
    asked.delete(name);
    script.remove();
    missing.value = [...missing.value, name];
  };
  document.head.append(script);
}

interface Lazy {
  /** Name of the view. */
  readonly name: string;
  readonly title: string;
  /** Name of its script, without the ending. */
  readonly script: string;
  /** Whether the script has a style sheet of its own. */
  readonly hasStyle?: boolean;
  /** What is wrong, and what to do, where the script does not come. */
  readonly problem: string;
}

/** Show a view as soon as its script is there. */
export function LazyView({ name, title, script, hasStyle = false, problem }: Lazy) {
  const Shown = loadedView(name)?.component;
  useEffect(() => {
    if (!loadedView(name)) load(script, hasStyle); // asked again: a page that holds all scripts runs them before this
  }, [name, script]);
  if (Shown) return <Shown />;
  return (
    <section class="card">
      <h2>{title}</h2>
      {missing.value.includes(script) ? (
        <p class="refusal" role="alert">
          {problem}
        </p>
      ) : (
        <p role="status">Loading …</p>
      )}
    </section>
  );
}
