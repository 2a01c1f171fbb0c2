/** State of the view "Field": a chain of convolutions and poolings, and the picture that it reads. */

import { chainOf, chainRefusal, drawnSpan, type WindowLayer } from "../core";
import type { Reader, Writer } from "./fields";

export interface FieldState {
  readonly layers: readonly WindowLayer[];
  /** Side of the picture, which is square. */
  readonly size: number;
}

export const FIELD_BOUNDS = {
  layers: [1, 8],
  size: [1, 256],
  kernel: [1, 11],
  stride: [1, 4],
  padding: [0, 18],
  dilation: [1, 18],
} as const;

/** Most pixels along an axis, with the fields beyond the picture, that are drawn. */
export const MOST_DRAWN = 1024;

const PATTERN = /^(conv|pool)(\d{1,2})(?:s(\d))?(?:p(\d{1,2}))?(?:d(\d{1,2}))?$/;
const NUMBERS = ["kernel", "stride", "padding", "dilation"] as const;

/** Write a layer as the address does, such as `conv3s2p1d1` without what is usual. */
export function layerText({ kind, kernel, stride, padding, dilation }: WindowLayer): string {
  const put = (letter: string, value: number, usual: number): string => (value === usual ? "" : letter + value);
  return `${kind}${kernel}${put("s", stride, 1)}${put("p", padding, 0)}${put("d", dilation, 1)}`;
}

function readLayer(text: string): WindowLayer | null {
  const match = PATTERN.exec(text);
  if (!match) return null;
  const [, kind, kernel, stride = "1", padding = "0", dilation = "1"] = match;
  const layer = { kind: kind as WindowLayer["kind"], kernel: +kernel!, stride: +stride, padding: +padding, dilation: +dilation };
  return NUMBERS.every((name) => layer[name] >= FIELD_BOUNDS[name][0] && layer[name] <= FIELD_BOUNDS[name][1]) ? layer : null;
}

const chain = (text: string): WindowLayer[] => text.split("_").map((layer) => readLayer(layer)!);

/** Nets to begin with, and the size of the picture that shows them well. */
export const FIELD_PRESETS = {
  vgg: ["VGG: the first layers", "conv3p1_conv3p1_pool2s2_conv3p1_conv3p1_pool2s2", 32],
  resnet: ["ResNet: stem and one block", "conv7s2p3_pool3s2p1_conv3p1_conv3p1", 64],
  alexnet: ["AlexNet", "conv11s4p2_pool3s2_conv5p2_pool3s2_conv3p1_conv3p1_conv3p1_pool3s2", 224],
  unet: ["U-Net’s encoder: three levels", "conv3_conv3_pool2s2_conv3_conv3_pool2s2_conv3_conv3", 92],
  dilated: ["dilated 1, 2, 4: no gaps", "conv3p1_conv3p2d2_conv3p4d4", 32],
  gridding: ["dilated 2, 2, 2: gaps", "conv3p2d2_conv3p2d2_conv3p2d2", 32],
} as const;
export type FieldPreset = keyof typeof FIELD_PRESETS;

export function presetState(name: FieldPreset): FieldState {
  const [, text, size] = FIELD_PRESETS[name];
  return { layers: chain(text), size };
}

/** Return the preset that a state is, or null. */
export function presetOf({ layers, size }: FieldState): FieldPreset | null {
  const text = layers.map(layerText).join("_");
  const names = Object.keys(FIELD_PRESETS) as FieldPreset[];
  return names.find((name) => FIELD_PRESETS[name][1] === text && FIELD_PRESETS[name][2] === size) ?? null;
}

export const FIRST_FIELD = presetState("vgg");

/** Return why nothing is drawn, in words, or null. */
export function fieldRefusal({ layers, size }: FieldState): string | null {
  const why = chainRefusal(layers, size);
  if (why) return why;
  const [first, last] = drawnSpan(chainOf(layers, size), 0);
  const drawn = last - first + 1;
  return drawn > MOST_DRAWN
    ? `The fields reach over ${drawn} pixels; at most ${MOST_DRAWN} are drawn: make a kernel, a stride, a padding or a dilation smaller.`
    : null;
}

export function readFieldState(reader: Reader): FieldState {
  const usual = FIRST_FIELD;
  const text = reader.text("field");
  const read = text === null ? usual.layers : text.split("_", FIELD_BOUNDS.layers[1] + 1).map(readLayer);
  const valid = read.length <= FIELD_BOUNDS.layers[1] && read.every((layer) => layer !== null);
  if (!valid) reader.refuse("field", "1 to 8 layers such as conv3s2p1d1_pool2s2, with kernels from 1 to 11");
  return {
    layers: valid ? (read as WindowLayer[]) : usual.layers,
    size: reader.whole("field.size", usual.size, FIELD_BOUNDS.size),
  };
}

export function writeFieldState({ layers, size }: FieldState, writer: Writer): void {
  const usual = FIRST_FIELD;
  writer.put("field", layers.map(layerText).join("_"), usual.layers.map(layerText).join("_"));
  writer.wholes("field.size", [size], [usual.size]);
}
