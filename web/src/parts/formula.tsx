/** Formulas as MathML, from short pieces. */

import type { ComponentChildren, VNode } from "preact";

type Piece = ComponentChildren;

export const mi = (name: string): VNode => <mi>{name}</mi>;
export const mn = (value: number | string): VNode => <mn>{String(value).replace("-", "−")}</mn>;
export const mo = (sign: string): VNode => <mo>{sign}</mo>;

export function row(...pieces: Piece[]): VNode {
  return <mrow>{pieces}</mrow>;
}

export function sub(base: VNode, ...indices: Piece[]): VNode {
  return (
    <msub>
      {base}
      <mrow>{indices}</mrow>
    </msub>
  );
}

export function sum(...below: Piece[]): VNode {
  return (
    <munder>
      <mo largeop={true} movablelimits={false}>∑</mo>
      <mrow>{below}</mrow>
    </munder>
  );
}

export function Formula({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="formula" role="group" aria-label={label} tabIndex={0}>
      <math display="block">
        <mrow>{children}</mrow>
      </math>
    </div>
  );
}
