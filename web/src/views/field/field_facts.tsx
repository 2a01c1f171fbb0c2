/** What the view "Field" says about a pixel's field, and about the layers. */

import { type Chain, gaps, meanPaddingShare, withoutPadding } from "../../core";
import { fieldState, setPin, state } from "../../state/store";
import { Formula, mi, mn, mo, row as together, sub } from "../../parts/formula";
import { grouped, short } from "../../parts/numbers";
import { cellOf, type PixelField } from "./field_arrays";
import { layerName, partText, percent, spanText } from "./words";

export function Facts({ chain, field }: { chain: Chain; field: PixelField }) {
  const { pixel, maps } = field;
  const { rows, columns, positions, outside } = maps[0]!;
  const { size } = chain.fields.at(-1)!;
  const pinned = state.value.pin !== null;
  return (
    <section class="card" aria-label="The field">
      <div class="row heading">
        <h2>
          The field of <span class="name">y[{pixel.join(", ")}]</span>
        </h2>
        <button type="button" class="quiet" onClick={() => setPin(pinned ? null : cellOf(pixel))}>
          {pinned ? "Unpin" : "Pin"}
        </button>
      </div>
      <p role="status">
        <strong>
          Rows {spanText(rows)}, columns {spanText(columns)}
        </strong>{" "}
        of the picture: {size} × {size} positions, of which{" "}
        <strong>{partText(outside, positions)}</strong> are padding, outside of the picture.
      </p>
      <ul class="facts">
        <li>{centreText(chain, field)}</li>
        <li>{pathsText(chain, field)}</li>
        <li>{gapsText(chain, field)}</li>
      </ul>
      <p class="note">
        Positions are what the field covers, in the picture and around it. Paths are what is read: each takes one element of the
        window in every layer (in a pooling too), from the output back to the picture, and ends where it meets the padding of any map.
        Channels are left out.
      </p>
    </section>
  );
}

/** Say where the field's centre lies, and how far from the pixel, were the output stretched over the picture. */
function centreText({ sizes }: Chain, { pixel, maps }: PixelField): string {
  const { rows, columns } = maps[0]!;
  const centre = [rows, columns].map(([first, last]) => (first + last) / 2);
  const scale = sizes[0]! / sizes.at(-1)!;
  const [down, right] = centre.map((value, axis) => short(value - (pixel[axis]! + 0.5) * scale + 0.5));
  return (
    `Centre: row ${short(centre[0]!)}, column ${short(centre[1]!)}. Offset from the pixel, when the output is stretched ` +
    `over the picture: ${down} rows, ${right} columns.`
  );
}

function pathsText(chain: Chain, { row, column, maps }: PixelField): string {
  const all = chain.axes.reduce((product, { kernel }) => product * kernel ** 2, 1);
  const most = [row, column].reduce((product, { paths }) => product * Math.max(...withoutPadding(chain, 0, paths[0]!)), 1);
  const ended = maps.reduce((sum, map) => sum + map.ended, 0);
  const places = maps.flatMap((map, n) => (map.ended ? [`${grouped(map.ended)} around ${n ? `map ${n}` : "the picture"}`] : []));
  return `Paths: ${partText(ended, all)} end in padding${ended ? ` (${places.join(", ")})` : ""}; a pixel of the picture has up to ${grouped(most)}.`;
}

function gapsText(chain: Chain, { maps }: PixelField): string {
  const { positions, outside, read } = maps[0]!;
  const inside = positions - outside;
  return (
    `Gaps: dilation or stride steps over ${partText(gaps(chain), positions)} positions. ` +
    `Of the pixels in the picture, ${partText(inside - read, inside)} are not read here.`
  );
}

const HEADINGS = ["map", "output size", "receptive field", "jump", "centre of pixel 0", "padding, on average"];

export function LayerTable({ chain, field }: { chain: Chain; field: PixelField }) {
  const { layers } = fieldState.value;
  const headings = [...HEADINGS, `field of y[${field.pixel.join(", ")}]`, "padding in it"];
  return (
    <section class="card" aria-label="The layers">
      <h2>Layer by layer</h2>
      <div class="scroll layer-table" tabIndex={0} role="group" aria-label="Table of the layers">
        <table>
          <thead>
            <tr>
              {headings.map((text, n) => (
                <th scope="col" class={n ? "number" : ""} key={n}>
                  {text}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {chain.sizes.map((size, map) => (
              <tr key={map}>
                <th scope="row">{map ? `${map}: ${layerName(layers[map - 1]!)}` : "picture"}</th>
                {rowOf(chain, field, map, size).map((text, n) => (
                  <td class="number" key={n}>
                    {text}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="note">
        In pixels of the picture, for the pixels of each map; on average, padding is the share of their fields outside of the
        picture. The last two columns are the field of the pixel pointed at in each map, and its share outside of that map.
      </p>
    </section>
  );
}

function rowOf(chain: Chain, field: PixelField, map: number, outputs: number): (string | number)[] {
  const { size, jump, start } = chain.fields[map]!;
  const { rows, columns, positions, outside } = field.maps[map]!;
  return [
    `${outputs} × ${outputs}`,
    `${size} × ${size}`,
    jump,
    short(start + (size - 1) / 2),
    percent(meanPaddingShare(chain, map)),
    `${spanText(rows)}, ${spanText(columns)}`,
    percent(outside / positions),
  ];
}

const level = (name: string) => sub(mi(name), mi("l"));
const before = (name: string) => sub(mi(name), mi("l"), mo("−"), mn(1));

/** The recurrence from layer to layer, and its terms for the net that is shown. */
export function Formulas({ chain: { fields, axes } }: { chain: Chain }) {
  const terms = fields.slice(1).map(({ size }, n) => ` + ${size - fields[n]!.size}`);
  const times = mo("·");
  return (
    <section class="card">
      <h2>In letters</h2>
      <Formula label="Receptive field of layer l">
        {together(level("r"), mo("="), before("r"), mo("+"), mo("("), level("k"), mo("−"), mn(1), mo(")"), times, level("d"), times, before("j"))}
      </Formula>
      <Formula label="Jump of layer l">{together(level("j"), mo("="), before("j"), times, level("s"))}</Formula>
      <p class="note">
        A layer with kernel size k, dilation d and stride s widens the field r by its window’s length less one, counted in the
        jumps j of the map that it reads; its stride multiplies the jump. Here, r = 1{terms.join("")} = {fields.at(-1)!.size}, and j ={" "}
        {axes.map(({ stride }) => stride).join(" · ")} = {fields.at(-1)!.jump}.
      </p>
    </section>
  );
}
