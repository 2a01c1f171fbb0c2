/** Layers, spans and shares in words. */

import type { Span, WindowLayer } from "../../core";
import { grouped, short } from "../../parts/numbers";

/** Name a layer with whatever is not usual. */
export function layerName({ kind, kernel, stride, padding, dilation }: WindowLayer): string {
  const put = (noun: string, value: number, usual: number): string => (value === usual ? "" : `, ${noun} ${value}`);
  const name = kind === "conv" ? "convolution" : "pooling";
  return `${name} ${kernel} × ${kernel}${put("stride", stride, 1)}${put("padding", padding, 0)}${put("dilation", dilation, 1)}`;
}

export const spanText = ([first, last]: Span): string => (first === last ? short(first) : `${short(first)} to ${short(last)}`);

export const percent = (share: number): string => `${short(100 * share)}%`;

/** Write a part of a whole, such as `32 of 256 (12.5%)`. */
export const partText = (part: number, whole: number): string => `${grouped(part)} of ${grouped(whole)} (${percent(part / (whole || 1))})`;
