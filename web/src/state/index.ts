/** The page's state: what is shown, and how it is written into the address. */

export * from "./address";
export * from "./fields";
export * from "./fold_state";
export * from "./layer_state";
