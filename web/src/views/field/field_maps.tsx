/** Maps of a net, from the picture to the output: their pixels in a canvas, and frames over them. */

import type { ComponentChildren, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { type Chain, drawnSpan, lengthsInside, paddingOf, type Span } from "../../core";
import { cellByKey } from "../../parts/keys";
import type { Pixel, PixelField } from "./field_arrays";
import { drawPicture } from "./picture";

type Draw = (context: CanvasRenderingContext2D) => void;

/** A drawing with a pixel for each position of a span on both axes; it is drawn again when an input changes. */
function Pixels({ span: [first, last], draw, inputs }: { span: Span; draw: Draw; inputs: readonly unknown[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const side = last - first + 1;
  useLayoutEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    context.clearRect(0, 0, side, side);
    draw(context);
  }, [side, first, ...inputs]);
  return <canvas ref={canvas} width={side} height={side} aria-hidden="true" />;
}

/** Colours of a map and of what lies around it, as blue, green and red bytes: those of the style sheet, in both schemes. */
const COLOURS = { inside: 0x94a412, around: 0x2d78d9 };

/**
 * Shade the positions from `start` on, by the product of their row's and their column's number.
 *
 * Positions from 0 to `size` lie in the map; position 0 is at `origin` in the drawing.
 */
function shade(
  context: CanvasRenderingContext2D,
  [rows, columns]: readonly ArrayLike<number>[],
  [top, left]: Pixel,
  opacity: (product: number) => number,
  origin: number,
  size: number,
): void {
  const image = context.createImageData(columns!.length, rows!.length);
  const pixels = new Uint32Array(image.data.buffer);
  const inside = (position: number): boolean => position >= 0 && position < size;
  for (let place = 0; place < pixels.length; place++) {
    const column = place % columns!.length;
    const row = (place - column) / columns!.length;
    const colour = inside(row + top) && inside(column + left) ? COLOURS.inside : COLOURS.around;
    pixels[place] = colour + ((255 * opacity(rows![row]! * columns![column]!)) << 24);
  }
  context.putImageData(image, origin + left, origin + top);
}

/** Shade each position of a map, and of the padding around it, by its number of paths to the output pixel. */
function shadePaths(context: CanvasRenderingContext2D, chain: Chain, map: number, field: PixelField, origin: number): void {
  const padding = paddingOf(chain, map);
  const axes = [field.row, field.column];
  const starts = axes.map(({ spans }) => Math.max(spans[map]![0], -padding));
  const counts = axes.map(({ spans, paths }, n) => paths[map]!.subarray(starts[n]! + padding, spans[map]![1] + padding + 1));
  if (!counts.every(({ length }) => length)) return;
  const most = counts.reduce((product, own) => product * Math.max(...own), 1);
  const opacity = (paths: number): number => (paths && 0.18 + (0.57 * paths) / most);
  shade(context, counts, starts as unknown as Pixel, opacity, origin, chain.sizes[map]!);
}

/** Shade each output pixel by the share of its field that lies outside of the picture. */
function shadeShares(context: CanvasRenderingContext2D, chain: Chain): void {
  const lengths = lengthsInside(chain, chain.axes.length);
  shade(context, [lengths, lengths], [0, 0], (inside) => 0.85 - (0.85 * inside) / chain.uses.length ** 2, 0, 0);
}

interface FrameProps {
  readonly class: string;
  readonly rows: Span;
  readonly columns?: Span;
}

function Frame({ class: kind, rows, columns = rows }: FrameProps) {
  return (
    <rect
      class={kind}
      x={columns[0]}
      y={rows[0]}
      width={columns[1] - columns[0] + 1}
      height={rows[1] - rows[0] + 1}
      vector-effect="non-scaling-stroke"
    />
  );
}

function Frames({ span: [first, last], children }: { span: Span; children: ComponentChildren }) {
  const side = last - first + 1;
  return (
    <svg class="marks" aria-hidden="true" viewBox={`${first} ${first} ${side} ${side}`}>
      {children}
    </svg>
  );
}

interface MapProps {
  readonly chain: Chain;
  readonly map: number;
  readonly field: PixelField;
  /** Position that is framed too. */
  readonly looked?: Pixel;
}

/** A map with its padding and with the field of the output pixel, which may lie outside; map 0 is the picture. */
export function MapPixels({ chain, map, field, looked }: MapProps) {
  const output = map === chain.axes.length;
  const size = chain.sizes[map]!;
  const span = drawnSpan(chain, map);
  const padding = paddingOf(chain, map);
  const frame = field.maps[map]!;
  return (
    <>
      <Frames span={span}>
        <Frame class="beyond" {...frame} />
        <Frame class="ground" rows={[0, size - 1]} />
        {padding > 0 && <Frame class="dashed" rows={[-padding, size - 1 + padding]} />}
      </Frames>
      {!map && <Pixels span={span} draw={(context) => drawPicture(context, size, -span[0])} inputs={[size]} />}
      <Pixels
        span={span}
        draw={(context) => (output ? shadeShares(context, chain) : shadePaths(context, chain, map, field, -span[0]))}
        inputs={[chain, output || field]}
      />
      <Frames span={span}>
        <Frame class="outline" {...frame} />
        {looked && <Frame class="looked" rows={[looked[0], looked[0]]} columns={[looked[1], looked[1]]} />}
      </Frames>
    </>
  );
}

interface PointableProps {
  readonly label: string;
  readonly class: string;
  readonly span: Span;
  readonly at: Pixel;
  /** Called with a pixel; `moved` says that a key led there. */
  readonly onPoint: (pixel: Pixel, moved: boolean) => void;
  readonly onClick: (pixel: Pixel) => void;
  readonly onUnpin?: () => void;
  readonly children: ComponentChildren;
}

/** A map whose pixels are pointed at, walked through by arrow keys, and pinned. */
export function Pointable({ label, class: kind, span, at, onPoint, onClick, onUnpin, children }: PointableProps) {
  const pixelOf = (event: JSX.TargetedMouseEvent<HTMLDivElement>): Pixel => {
    const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
    const side = span[1] - span[0] + 1;
    const along = (share: number): number => span[0] + Math.min(Math.max(Math.floor(share * side), 0), side - 1);
    return [along((event.clientY - top) / height), along((event.clientX - left) / width)];
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.altKey || event.metaKey) return;
    const next = cellByKey(event, at, span, span);
    if (next) onPoint(next, true);
    else if (event.key === "Enter" || event.key === " ") onClick(at);
    else if (event.key === "Escape") onUnpin?.();
    else return;
    event.preventDefault();
  };
  return (
    <div
      class={`map ${kind}`}
      role="application"
      tabIndex={0}
      aria-label={`${label}; the arrow keys lead from pixel to pixel`}
      onKeyDown={onKeyDown}
      onPointerMove={(event) => {
        const pixel = pixelOf(event);
        if (event.pointerType !== "touch" && pixel.join() !== at.join()) onPoint(pixel, false);
      }}
      onClick={(event) => onClick(pixelOf(event))}
    >
      {children}
    </div>
  );
}
