/** Pictures of the server on canvases that are moved and enlarged together, with the range of values that they show. */

import { type Signal, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { counted, grouped, short } from "../parts/numbers";
import { theme } from "../state/store";
import { type Picture, pictureBlob, pictureNumbers, type Shades, wordsOf } from "./client";
import { numbersOf, type Numbers } from "./npy";

/** Part of a picture that is shown: its centre, from 0 to 1, and how much it is enlarged; 1 shows the whole. */
export interface Viewport {
  readonly x: number;
  readonly y: number;
  readonly zoom: number;
}

export const WHOLE: Viewport = { x: 0.5, y: 0.5, zoom: 1 };
const MOST_ZOOM = 64;
const STEP = 1.25;

/** What several canvases share: the part that they show, and where the pointer is, from 0 to 1. */
export interface SharedView {
  readonly viewport: Signal<Viewport>;
  readonly pointer: Signal<{ readonly x: number; readonly y: number } | null>;
}

export function sharedView(): SharedView {
  return { viewport: signal(WHOLE), pointer: signal(null) };
}

/** Return a part that lies within the picture. */
function within({ x, y, zoom }: Viewport): Viewport {
  const bounded = Math.min(Math.max(zoom, 1), MOST_ZOOM);
  const half = 0.5 / bounded;
  const inside = (value: number): number => Math.min(Math.max(value, half), 1 - half);
  return { x: inside(x), y: inside(y), zoom: bounded };
}

/** Enlarge by a factor; the place at (x, y), from 0 to 1 in the canvas, stays where it is. */
export function zoomed(view: Viewport, factor: number, x = 0.5, y = 0.5): Viewport {
  const { zoom } = within({ ...view, zoom: view.zoom * factor });
  const moved = (centre: number, at: number): number => centre + (at - 0.5) * (1 / view.zoom - 1 / zoom);
  return within({ x: moved(view.x, x), y: moved(view.y, y), zoom });
}

/** Move by parts of what is shown. */
export function panned(view: Viewport, x: number, y: number): Viewport {
  return within({ ...view, x: view.x + x / view.zoom, y: view.y + y / view.zoom });
}

function afterKey(view: Viewport, key: string): Viewport | null {
  switch (key) {
    case "+":
    case "=":
      return zoomed(view, STEP);
    case "-":
      return zoomed(view, 1 / STEP);
    case "0":
      return WHOLE;
    case "ArrowLeft":
      return panned(view, -0.1, 0);
    case "ArrowRight":
      return panned(view, 0.1, 0);
    case "ArrowUp":
      return panned(view, 0, -0.1);
    case "ArrowDown":
      return panned(view, 0, 0.1);
    default:
      return null;
  }
}

/** Buttons that enlarge and reduce what all canvases show. */
export function ZoomButtons({ view }: { view: SharedView }) {
  const { viewport } = view;
  return (
    <div class="row zoom">
      <button type="button" class="quiet" aria-label="Enlarge" onClick={() => (viewport.value = zoomed(viewport.value, STEP))}>
        +
      </button>
      <button type="button" class="quiet" aria-label="Reduce" onClick={() => (viewport.value = zoomed(viewport.value, 1 / STEP))}>
        −
      </button>
      <button type="button" class="quiet" onClick={() => (viewport.value = WHOLE)}>
        Whole picture
      </button>
      <span class="note">{viewport.value.zoom === 1 ? "Click a picture: then the wheel enlarges it, and dragging moves it." : `${short(viewport.value.zoom)} times enlarged`}</span>
    </div>
  );
}

/** Largest number of values that are fetched to be read under the pointer. */
const READABLE = 1 << 22;

interface PictureViewProps {
  readonly title: string;
  readonly picture: Picture;
  readonly view: SharedView;
  readonly shades?: Shades;
  /** More about the picture, below it. */
  readonly children?: ComponentChildren;
}

/** A picture on a canvas: wheel, drag and keys move all that share its view; its range, and the value pointed at, in words. */
export function PictureView({ title, picture, view, shades = {}, children }: PictureViewProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const image = useRef<ImageBitmap | null>(null);
  const numbers = useRef<Promise<Numbers | null> | null>(null);
  const state = useRef({
    range: signal<{ low: number; high: number; clipped: number } | null>(null),
    problem: signal(""),
    values: signal<Numbers | null>(null),
  }).current;
  const viewport = view.viewport.value;
  const [rows = 1, columns = 1] = picture.shape;
  const draw = (): void => {
    if (image.current && canvas.current) drawPart(canvas.current, image.current, view.viewport.peek());
  };

  useEffect(() => {
    const own = new AbortController();
    state.problem.value = "";
    const load = async (): Promise<void> => {
      try {
        const shown = await pictureBlob(picture.id, shades, own.signal);
        const bitmap = await createImageBitmap(shown.blob);
        if (own.signal.aborted) return bitmap.close();
        image.current?.close();
        image.current = bitmap;
        state.range.value = shown;
        draw();
      } catch (problem) {
        if (!own.signal.aborted) state.problem.value = wordsOf(problem);
      }
    };
    void load();
    return () => own.abort();
  }, [picture.id, shades.low, shades.high, shades.diverging]);
  useEffect(() => {
    numbers.current = null;
    state.values.value = null;
  }, [picture.id]);
  useEffect(() => {
    draw();
  }, [viewport, theme.value]);
  useEffect(() => {
    const element = canvas.current!;
    const resize = new ResizeObserver(draw);
    resize.observe(element);
    // Not through the component: a listener that stops the page's own scrolling must not be passive.
    const wheel = (event: WheelEvent): void => {
      if (document.activeElement !== element && !event.ctrlKey) return; // whoever scrolls past a picture scrolls on
      const turned = zoomed(view.viewport.peek(), event.deltaY < 0 ? STEP : 1 / STEP, ...placeOf(event, element));
      if (turned.zoom === view.viewport.peek().zoom) return; // the page scrolls on
      event.preventDefault();
      view.viewport.value = turned;
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => {
      resize.disconnect();
      element.removeEventListener("wheel", wheel);
      image.current?.close();
      image.current = null;
    };
  }, []);

  const read = (): void => {
    const size = picture.shape.reduce((product, length) => product * length, 1);
    if (numbers.current || size > READABLE) return;
    const own = pictureNumbers(picture.id).then(numbersOf, () => null);
    numbers.current = own;
    void own.then((found) => numbers.current === own && (state.values.value = found));
  };
  const point = (event: PointerEvent): void => {
    const element = canvas.current!;
    const now = view.viewport.peek();
    if (event.buttons & 1 && element.hasPointerCapture(event.pointerId)) {
      view.viewport.value = panned(now, -event.movementX / element.clientWidth, -event.movementY / element.clientHeight);
      return;
    }
    const [x, y] = placeOf(event, element);
    view.pointer.value = { x: now.x + (x - 0.5) / now.zoom, y: now.y + (y - 0.5) / now.zoom };
    read();
  };
  const key = (event: KeyboardEvent): void => {
    const next = event.ctrlKey || event.metaKey || event.altKey ? null : afterKey(view.viewport.peek(), event.key);
    if (!next) return;
    event.preventDefault();
    view.viewport.value = next;
  };
  const range = state.range.value;
  return (
    <figure class="picture">
      <figcaption>
        <h3>{title}</h3>
        <span class="note">
          {rows} × {columns}
          {picture.shape[2] ? ` × ${picture.shape[2]}` : ""}, {picture.dtype}
        </span>
      </figcaption>
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={`${title}: plus and minus enlarge and reduce, arrow keys move, 0 shows the whole picture`}
        onPointerDown={(event) => event.currentTarget.setPointerCapture(event.pointerId)}
        onPointerMove={point}
        onPointerLeave={() => (view.pointer.value = null)}
        onKeyDown={key}
        style={{ aspectRatio: `${columns} / ${rows}`, touchAction: viewport.zoom > 1 ? "none" : "auto" }}
      />
      {state.problem.value && (
        <p class="refusal" role="alert">
          {state.problem.value}
        </p>
      )}
      <p class="note under">
        <Pointed picture={picture} view={view} values={state.values.value} />
      </p>
      {range && <Range picture={picture} {...range} diverging={shades.diverging ?? false} />}
      {picture.notes.map((note) => (
        <p class="note" key={note}>
          {note.charAt(0).toUpperCase() + note.slice(1)}.
        </p>
      ))}
      {children}
    </figure>
  );
}

function placeOf(event: MouseEvent, element: HTMLElement): [number, number] {
  const box = element.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/** Draw the part that is shown; enlarged pixels stay squares. */
function drawPart(canvas: HTMLCanvasElement, image: ImageBitmap, { x, y, zoom }: Viewport): void {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.max(1, Math.round(canvas.clientWidth * ratio)), Math.max(1, Math.round(canvas.clientHeight * ratio))];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d")!;
  const [across, down] = [image.width / zoom, image.height / zoom];
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = across > width;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, x * image.width - across / 2, y * image.height - down / 2, across, down, 0, 0, width, height);
}

/** The value at the place of the pointer. */
function Pointed({ picture, view, values }: { picture: Picture; view: SharedView; values: Numbers | null }) {
  const pointer = view.pointer.value;
  if (!pointer) return <>Point at a pixel to read its value.</>;
  const [rows = 1, columns = 1] = picture.shape;
  const row = Math.min(Math.max(Math.floor(pointer.y * rows), 0), rows - 1);
  const column = Math.min(Math.max(Math.floor(pointer.x * columns), 0), columns - 1);
  const found = values?.at(row, column);
  return (
    <>
      Row {row}, column {column}
      {found && `: ${found.map((value) => short(value)).join(", ")}`}
    </>
  );
}

/** The values that black and white stand for, and how many lie beyond. */
function Range({ picture, low, high, clipped, diverging }: { picture: Picture; low: number; high: number; clipped: number; diverging: boolean }) {
  const beyond = clipped
    ? `${counted(clipped, "value lies", "values lie")} beyond, and ${clipped === 1 ? "is" : "are"} shown as the nearer end.`
    : "No value lies beyond.";
  return (
    <div class="range">
      <div class={diverging ? "shades diverging" : "shades"}>
        <span>{short(low)}</span>
        <span class="bar" />
        <span>{short(high)}</span>
      </div>
      <p class="note">
        {beyond} Values from {picture.least === null ? "–" : short(picture.least)} to {picture.largest === null ? "–" : short(picture.largest)}
        {picture.not_finite ? `, and ${grouped(picture.not_finite)} NaN or infinite` : ""}.
      </p>
    </div>
  );
}
