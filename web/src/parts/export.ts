/** A figure as one SVG file: its grids where they stand on the page, with their colours, and its captions. */

const COPIED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order", "font-style", "font-size", "font-weight", "text-anchor"] as const;

/** Build the text of an SVG file of all grids and captions in an element. */
export function svgOf(figure: Element): string {
  const frame = figure.getBoundingClientRect();
  const file = document.implementation.createDocument("http://www.w3.org/2000/svg", "svg", null);
  const root = file.documentElement;
  root.setAttribute("viewBox", `0 0 ${Math.ceil(frame.width)} ${Math.ceil(frame.height)}`);
  root.setAttribute("width", String(Math.ceil(frame.width)));
  root.setAttribute("height", String(Math.ceil(frame.height)));
  const make = (name: string, attributes: Record<string, string | number>): Element => {
    const element = file.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
    root.append(element);
    return element;
  };
  const placed = ({ left, top, width, height }: DOMRect) => ({ x: left - frame.left, y: top - frame.top, width, height });
  make("rect", { width: "100%", height: "100%", fill: backgroundOf(figure) });
  for (const caption of figure.querySelectorAll<HTMLElement>("[data-caption]")) {
    const box = caption.getBoundingClientRect();
    if (!box.width) continue;
    const style = getComputedStyle(caption);
    make("text", {
      x: box.left - frame.left,
      y: box.bottom - frame.top - 4,
      fill: style.color,
      "font-size": style.fontSize,
      "font-weight": style.fontWeight,
      "font-family": "sans-serif",
    }).textContent = caption.textContent;
  }
  for (const grid of figure.querySelectorAll<SVGSVGElement | HTMLCanvasElement>("svg.grid, svg.marks, canvas")) {
    const box = grid.getBoundingClientRect();
    if (!box.width) continue;
    if (grid instanceof HTMLCanvasElement) {
      make("image", { ...placed(box), href: grid.toDataURL(), "image-rendering": "pixelated" });
      continue;
    }
    const copy = drawn(grid) as SVGSVGElement;
    for (const [key, value] of Object.entries(placed(box))) copy.setAttribute(key, String(value));
    copy.setAttribute("viewBox", grid.getAttribute("viewBox")!);
    root.append(file.importNode(copy, true));
  }
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(file)}\n`;
}

function backgroundOf(element: Element): string {
  for (let node: Element | null = element; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (colour && colour !== "transparent" && colour !== "rgba(0, 0, 0, 0)") return colour;
  }
  return "white";
}

/** Copy a drawing with the colours and sizes that the style sheet gives it, and without what only the page needs. */
function drawn(element: Element): Element {
  const copy = element.cloneNode(false) as Element;
  for (const { name } of [...copy.attributes]) {
    if (/^(class|role|tabindex|data-|aria-)/.test(name)) copy.removeAttribute(name);
  }
  if (element instanceof SVGRectElement || element instanceof SVGPathElement || element instanceof SVGTextElement) {
    const style = getComputedStyle(element);
    for (const property of COPIED) copy.setAttribute(property, style.getPropertyValue(property));
    copy.setAttribute("fill-opacity", style.getPropertyValue("fill-opacity"));
    if (element instanceof SVGTextElement) {
      copy.setAttribute("dominant-baseline", style.getPropertyValue("dominant-baseline"));
      copy.setAttribute("font-family", "sans-serif");
    }
  }
  for (const child of element.childNodes) copy.append(child instanceof Element ? drawn(child) : child.cloneNode());
  return copy;
}

/** Save a figure as a file. */
export function saveSvg(figure: Element, name: string): void {
  const address = URL.createObjectURL(new Blob([svgOf(figure)], { type: "image/svg+xml" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
