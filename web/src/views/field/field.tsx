/** The view "Field": an output pixel's receptive field in the picture and in every map between. */

import { type Chain, drawnSpan, withoutPadding } from "../../core";
import { fieldState, pointAt, setPin, state } from "../../state/store";
import { Code } from "../../parts/code";
import { FigureFrame, Sign } from "../../parts/figure";
import { grouped } from "../../parts/numbers";
import { sameCell } from "../../state";
import { cellOf, fieldBoard, fieldRefused, looked, lookedAt, pathsTo, type Pixel, type PixelField, shownChain, shownField } from "./field_arrays";
import { fieldCode } from "./field_code";
import { FieldControls } from "./field_controls";
import { Facts, Formulas, LayerTable } from "./field_facts";
import { MapPixels, Pointable } from "./field_maps";
import { layerName } from "./words";

export { fieldBoard };

export function Field() {
  const chain = shownChain.value;
  return (
    <div class="view">
      <div class="main">
        <p class="lead">
          An output pixel depends on a square of the picture, its receptive field; near the border, a part of it is
          padding. <strong>Point at a pixel of the output</strong> to see its field, and at the picture to see how often a
          pixel is used.
        </p>
        {chain ? (
          <Drawn chain={chain} field={shownField.value!} />
        ) : (
          <p class="card refusal" role="status">
            {fieldRefused.value}
          </p>
        )}
      </div>
      <FieldControls />
    </div>
  );
}

function togglePin(pixel: Pixel): void {
  const cell = cellOf(pixel);
  pointAt(cell);
  setPin(sameCell(state.value.pin, cell) ? null : cell);
}

function Drawn({ chain, field }: { chain: Chain; field: PixelField }) {
  const { layers } = fieldState.value;
  return (
    <>
      <PictureAndOutput chain={chain} field={field} />
      <Facts chain={chain} field={field} />
      {layers.length > 1 && (
        <FigureFrame name="convolith-maps" label="The maps between" stacking="beside" side={99} heading={<h2>The maps between</h2>}>
          {layers.slice(0, -1).map((layer, n) => (
            <div class="array between" key={n}>
              <h3 data-caption>Map {n + 1}</h3>
              <p class="note">after {layerName(layer)}</p>
              <div class="map">
                <MapPixels chain={chain} map={n + 1} field={field} />
              </div>
            </div>
          ))}
        </FigureFrame>
      )}
      <LayerTable chain={chain} field={field} />
      <Formulas chain={chain} />
      <details class="card">
        <summary>Fields and paths as text</summary>
        <pre id="output-text" tabIndex={0} aria-label="Fields and paths as text">
          {asText(chain, field)}
        </pre>
      </details>
      <Code code={fieldCode(fieldState.value, field.pixel)} />
    </>
  );
}

/** Write the numbers of every map, and the paths to each row and column of the picture, whose products are the pixels'. */
function asText(chain: Chain, { row, column, maps }: PixelField): string {
  const paths = [row, column].map((axis) => [...withoutPadding(chain, 0, axis.paths[0]!)]);
  return JSON.stringify({ sizes: chain.sizes, fields: chain.fields, maps, paths });
}

function PictureAndOutput({ chain, field }: { chain: Chain; field: PixelField }) {
  const { size } = fieldState.value;
  const at = lookedAt(chain, field);
  const map = chain.axes.length;
  const outputs = chain.sizes[map]!;
  const look = (pixel: Pixel): void => {
    looked.value = pixel;
  };
  return (
    <FigureFrame name="convolith-field" label="Picture and output" stacking="beside" side={99}>
      <div class="array field-picture">
        <h3 data-caption>
          Picture x, {size} × {size}
        </h3>
        <Pointable class="picture" label="Picture" span={drawnSpan(chain, 0)} at={at} onPoint={look} onClick={look}>
          <MapPixels chain={chain} map={0} field={field} looked={at} />
        </Pointable>
        <p class="note looked-note">{lookedText(chain, field, at)}</p>
      </div>
      <Sign>→</Sign>
      <div class="array output">
        <h3 data-caption>
          Output y, {outputs} × {outputs}
        </h3>
        <Pointable
          class="output"
          label="Output"
          span={[0, outputs - 1]}
          at={field.pixel}
          onPoint={(pixel, moved) => pointAt(cellOf(pixel), moved)}
          onClick={togglePin}
          onUnpin={() => setPin(null)}
        >
          <MapPixels chain={chain} map={map} field={field} />
        </Pointable>
        <p class="note">shaded by the share of padding in the field of each pixel</p>
        <p class="field-legend note">
          <span class="field-swatch paths" /> pixels of the field, by their paths
          <span class="field-swatch padding" /> padding, by its paths
          <span class="field-swatch beyond" /> outside, and not read
        </p>
      </div>
    </FigureFrame>
  );
}

function lookedText(chain: Chain, field: PixelField, at: Pixel): string {
  const [rows, columns] = pathsTo(chain, field, at);
  const inside = at.every((n) => n >= 0 && n < chain.sizes[0]!);
  const paths = rows && columns ? `${grouped(rows)} × ${grouped(columns)} = ${grouped(rows * columns)} paths` : "no path";
  return `${inside ? "x" : "Padding at "}[${at.join(", ")}]: ${paths} (by rows × by columns).`;
}
