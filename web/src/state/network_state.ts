/** State of the view "Network": the inputs of the model, what is counted, and how much of its tree is open. */

import type { Reader, Writer } from "./fields";

export const OPTIMIZERS = ["sgd", "momentum", "adam", "none"] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export const PASS_NAMES = ["forward", "backward"] as const;
export type PassName = (typeof PASS_NAMES)[number];

export interface NetworkState {
  /** Shape of each input, batch first. */
  readonly inputs: readonly (readonly number[])[];
  readonly train: boolean;
  readonly optimizer: OptimizerName;
  /** Bytes in which the largest batch shall fit, or null for no such search. */
  readonly memory: number | null;
  readonly fold: boolean;
  /** Pass whose operations the tree shows. */
  readonly pass: PassName;
  /** Depth down to which the tree is open. */
  readonly depth: number;
  /** Positions of the modules that are open although they are deeper, or closed although they are not. */
  readonly toggled: readonly number[];
}

export const NETWORK_BOUNDS = {
  inputs: [1, 8],
  axes: [1, 5],
  side: [1, 2 ** 20],
  elements: 2 ** 26,
  memory: [0, 1e15],
  depth: [0, 12],
  toggled: 400,
} as const;

export const FIRST_NETWORK: NetworkState = {
  inputs: [[1, 3, 224, 224]],
  train: false,
  optimizer: "sgd",
  memory: 8e9,
  fold: true,
  pass: "forward",
  depth: 1,
  toggled: [],
};

/** Read shapes such as "1x3x224x224" joined by a separator, or say what is wrong with them. */
export function readShapes(text: string, separator: RegExp): number[][] | string {
  const { inputs, axes, side, elements } = NETWORK_BOUNDS;
  const parts = text.trim().split(separator);
  if (parts.length > inputs[1]) return `There are ${parts.length} shapes; expected at most ${inputs[1]}.`;
  const shapes = parts.map((part) => part.trim().split(/\s*[x×,]\s*/).map((n) => (/^\d{1,9}$/.test(n) ? Number(n) : NaN)));
  for (const [place, shape] of shapes.entries()) {
    if (shape.length > axes[1]) return `“${parts[place]!.slice(0, 40)}” has ${shape.length} axes; expected at most ${axes[1]}.`;
    if (!shape.every((n) => n >= side[0] && n <= side[1])) {
      return `“${parts[place]!.slice(0, 40)}” is no shape; expected whole numbers from 1 to ${side[1]}, such as 1 x 3 x 224 x 224.`;
    }
  }
  const total = shapes.reduce((sum, shape) => sum + shape.reduce((product, n) => product * n, 1), 0);
  if (total > elements) return `The inputs have ${total.toLocaleString("en")} numbers together; expected at most ${elements.toLocaleString("en")}.`;
  return shapes;
}

export function shapesText(shapes: readonly (readonly number[])[], by = "x", separator = "_"): string {
  return shapes.map((shape) => shape.join(by)).join(separator);
}

export function readNetworkState(reader: Reader): NetworkState {
  const usual = FIRST_NETWORK;
  const text = reader.text("net.inputs");
  const shapes = text === null ? usual.inputs : readShapes(text, /_/);
  if (typeof shapes === "string") reader.refuse("net.inputs", "shapes joined by _, such as 1x3x224x224");
  const optimizer = reader.choice("net.optimizer", OPTIMIZERS, usual.optimizer);
  const [least, most] = NETWORK_BOUNDS.memory;
  const bytes = reader.text("net.memory");
  let memory = optimizer === "none" ? null : usual.memory;
  if (bytes !== null) {
    const value = /^\d{1,16}$/.test(bytes) ? Number(bytes) : NaN;
    if (bytes === "none") memory = null;
    else if (optimizer !== "none" && value >= least && value <= most) memory = value;
    else reader.refuse("net.memory", optimizer === "none" ? "none, as the optimizer is" : `bytes up to ${most}, or none`);
  }
  return {
    inputs: typeof shapes === "string" ? usual.inputs : shapes,
    train: reader.flag("net.train"),
    optimizer,
    memory,
    fold: reader.choice("net.fold", ["0", "1"], "1") === "1",
    pass: reader.choice("net.pass", PASS_NAMES, usual.pass),
    depth: reader.whole("net.depth", usual.depth, NETWORK_BOUNDS.depth),
    toggled: readPlaces(reader),
  };
}

function readPlaces(reader: Reader): number[] {
  const text = reader.text("net.toggled");
  if (text === null) return [];
  const places = text.split(".").map((part) => (/^\d{1,5}$/.test(part) ? Number(part) : NaN));
  if (places.length <= NETWORK_BOUNDS.toggled && places.every(Number.isFinite)) return [...new Set(places)];
  reader.refuse("net.toggled", `at most ${NETWORK_BOUNDS.toggled} numbers joined by points`);
  return [];
}

export function writeNetworkState(state: NetworkState, writer: Writer): void {
  const usual = FIRST_NETWORK;
  writer.put("net.inputs", shapesText(state.inputs), shapesText(usual.inputs));
  writer.put("net.train", state.train ? "1" : "0", "0");
  writer.put("net.optimizer", state.optimizer, usual.optimizer);
  const memory = state.optimizer === "none" ? usual.memory : state.memory;
  writer.put("net.memory", String(memory ?? "none"), String(usual.memory));
  writer.put("net.fold", state.fold ? "1" : "0", "1");
  writer.put("net.pass", state.pass, usual.pass);
  writer.wholes("net.depth", [state.depth], [usual.depth]);
  writer.put("net.toggled", state.toggled.join("."), "");
}

/** Return the state with a change; without an optimizer there is no training step, and so no largest batch. */
export function withNetwork(state: NetworkState, change: Partial<NetworkState>): NetworkState {
  const next = { ...state, ...change };
  return next.optimizer === "none" ? { ...next, memory: null } : next;
}
