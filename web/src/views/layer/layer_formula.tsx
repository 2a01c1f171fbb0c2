/** The definition of the layer that is shown, with its options in it. */

import type { VNode } from "preact";
import type { Axis, Layer } from "../../core";
import { Formula, mi, mn, mo, row, sub, sum } from "../../parts/formula";

type Piece = VNode | string;

/** Write `position * stride + tap * dilation - padding`, without what changes nothing. */
function place(position: string, tap: string, axis: Axis, flip: boolean): Piece[] {
  const pieces: Piece[] = [mi(position)];
  if (axis.stride > 1) pieces.push(mo("·"), mn(axis.stride));
  if (axis.kernel > 1) {
    pieces.push(mo("+"));
    if (flip) pieces.push(mo("("), mn(axis.kernel - 1), mo("−"), mi(tap), mo(")"));
    else pieces.push(mi(tap));
    if (axis.dilation > 1) pieces.push(mo("·"), mn(axis.dilation));
  }
  if (axis.before) pieces.push(mo("−"), mn(axis.before));
  return pieces;
}

export function LayerFormula({ layer, biased }: { layer: Layer; biased: boolean }) {
  const { rows, columns, axes, transposed, flip } = layer;
  const positions = axes === 1 ? ["j"] : ["i", "j"];
  const taps = axes === 1 ? ["v"] : ["u", "v"];
  const list = (names: readonly string[]): Piece[] => names.flatMap((name) => [mo(","), mi(name)]);
  const over = axes === 1 ? [columns] : [rows, columns];
  const tapList = over.flatMap((axis, n) => [mo(","), axis.kernel > 1 ? mi(taps[n]!) : mn(0)]);
  const summed = taps.filter((_, n) => over[n]!.kernel > 1);
  const y = sub(mi("y"), mi("o"), ...list(positions));
  const k = transposed ? sub(mi("k"), mi("c"), mo(","), mi("o"), ...tapList) : sub(mi("k"), mi("o"), mo(","), mi("c"), ...tapList);
  const bias = biased ? [sub(mi("b"), mi("o")), mo("+")] : [];
  if (transposed) {
    // An input is added to the outputs around it, each with its own tap.
    const target = over.flatMap((axis, n) => [mo(","), ...place(positions[n]!, taps[n]!, axis, flip)]);
    return (
      <section class="card">
        <h2>In letters</h2>
        <Formula label="Every input is added to the outputs that it reaches">
          {row(sub(mi("y"), mi("o"), ...target), mo("gains"), k, mo("·"), sub(mi("x"), mi("c"), ...list(positions)))}
        </Formula>
        <p class="note">
          for every input channel c{layer.groups > 1 ? " of the group of output channel o" : ""}, input position and tap
          {biased ? "; the bias b is added once" : ""}. This is what the gradient of an ordinary layer does with dy.
        </p>
      </section>
    );
  }
  const source = over.flatMap((axis, n) => [mo(","), ...place(positions[n]!, taps[n]!, axis, flip)]);
  return (
    <section class="card">
      <h2>In letters</h2>
      <Formula label="Definition of the layer">
        {row(y, mo("="), ...bias, sum(mi("c"), ...list(summed)), k, mo("·"), sub(mi("x"), mi("c"), ...source))}
      </Formula>
      <p class="note">
        o: output channel; c: input channel{layer.groups > 1 ? " of the same group, counted within it in k" : ""};{" "}
        {axes === 1 ? "j: output position" : "i, j: output pixel"}
        {summed.length ? `; ${summed.join(", ")}: tap of the kernel${flip ? ", which is flipped" : ""}` : ""}. Outside of x,
        the padding is read.
      </p>
    </section>
  );
}
