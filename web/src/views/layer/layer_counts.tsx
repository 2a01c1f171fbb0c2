/** Operations and memory of the layer that is shown, forward and backward, for one image. */

import { signal } from "@preact/signals";
import { type Convention, type Layer, ONE_IMAGE } from "../../core";
import { MemoryTerms, OperationTerms } from "../../parts/cost_terms";

const convention = signal<Convention>("dense");

export function LayerCounts({ layer, biased }: { layer: Layer; biased: boolean }) {
  const options = { ...ONE_IMAGE, biased, convention: convention.value };
  return (
    <>
      <OperationTerms layer={layer} options={options} onConvention={(chosen) => (convention.value = chosen)} />
      <MemoryTerms layer={layer} options={options} dtype="float32" />
    </>
  );
}
