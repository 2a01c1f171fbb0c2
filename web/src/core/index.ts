/** Pure functions over arrays of float64 numbers: everything that the page computes. */

export * from "./composition";
export * from "./correlation";
export * from "./counts";
export * from "./factoring";
export * from "./fills";
export * from "./layer";
export * from "./tensor";
