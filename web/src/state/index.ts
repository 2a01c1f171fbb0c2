/** The page's state: what is shown, and how it is written into the address. */

export * from "./address";
export * from "./compute_state";
export * from "./cost_state";
export * from "./field_state";
export * from "./fields";
export * from "./fit_state";
export * from "./fold_state";
export * from "./layer_state";
export * from "./network_state";
export * from "./quiz_state";
