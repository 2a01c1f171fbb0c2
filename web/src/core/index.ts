/** Pure functions over arrays of float64 numbers: everything that the page computes. */

export * from "./axis_counts";
export * from "./composition";
export * from "./correlation";
export * from "./cost";
export * from "./counts";
export * from "./factoring";
export * from "./field";
export * from "./fills";
export * from "./layer";
export * from "./module_tree";
export * from "./tensor";
