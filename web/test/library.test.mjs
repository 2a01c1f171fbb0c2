// Holds the page's numbers against the library's: values, gradients, counts, memory, compositions and factors.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as core from "../build/core.mjs";

const script = fileURLToPath(new URL("../../tests/web_values.py", import.meta.url));
const drawn = JSON.parse(execFileSync(process.env.PYTHON ?? "python", [script], { maxBuffer: 2 ** 28 }));

function close(name, found, expected) {
  assert.equal(found.length, expected.length, name);
  const scale = Math.max(1, ...expected.map(Math.abs));
  for (let place = 0; place < expected.length; place++) {
    const error = Math.abs(found[place] - expected[place]);
    assert.ok(error <= 1e-12 * scale, `${name}[${place}]: ${found[place]}, the library has ${expected[place]}`);
  }
}

const vector = (values) => (values ? core.tensor([values.length], values) : null);
const block = (layer, kernel, bias) => ({
  layer,
  kernel: core.tensor(core.kernelShape(layer), kernel),
  bias: vector(bias),
});

test(`${drawn.layers.length} layers: output, gradients, counts, memory`, () => {
  assert.ok(drawn.layers.length >= 500);
  for (const { layer, ...given } of drawn.layers) {
    const name = JSON.stringify(layer);
    assert.equal(core.refusal(layer), null, name);
    const x = core.tensor(core.inputShape(layer), given.x);
    const k = core.tensor(core.kernelShape(layer), given.k);
    const y = core.correlate(layer, x, k, vector(given.b));
    close(`${name} y`, y.data, given.y);
    const dy = core.tensor(core.outputShape(layer), given.dy);
    close(`${name} dx`, core.inputGradient(layer, k, dy).data, given.dx);
    close(`${name} dk`, core.kernelGradient(layer, x, dy).data, given.dk);
    for (const convention of core.CONVENTIONS) {
      const counts = core.countsOf(layer, given.b !== null, convention);
      const pairs = [counts.forward, counts.inputGradient, counts.kernelGradient, counts.biasGradient];
      assert.deepEqual(
        pairs.map(({ multiplications, additions }) => [multiplications, additions]),
        given.counts[convention],
        `${name} ${convention}`,
      );
    }
    const memory = core.memoryOf(layer, given.b !== null, 8);
    assert.deepEqual([...Object.values(memory.forward), ...Object.values(memory.backward)], given.memory, name);
  }
});

test("every element's products add up to it", () => {
  for (const { layer, ...given } of drawn.layers.slice(0, 60)) {
    const maps = core.mapsOf(layer);
    const x = core.tensor(core.inputShape(layer), given.x);
    const k = core.tensor(core.kernelShape(layer), given.k);
    const dy = core.tensor(core.outputShape(layer), given.dy);
    const read = (values, at) => (at ? core.valueAt(values, at) : 0);
    const sums = (shape, products, value) =>
      Array.from({ length: core.sizeOf(shape) }, (_, place) =>
        products(layer, maps, core.indicesOf(shape, place)).reduce((sum, product) => sum + value(product), 0),
      );
    const output = sums(dy.shape, core.productsOfOutput, (p) => read(x, p.input) * read(k, p.tap));
    close("output", output, [...core.correlate(layer, x, k).data]);
    close("input", sums(x.shape, core.productsOfInput, (p) => read(k, p.tap) * read(dy, p.output)), given.dx);
    close("tap", sums(k.shape, core.productsOfTap, (p) => read(x, p.input) * read(dy, p.output)), given.dk);
    const padded = core.padded(layer, x);
    for (let place = 0; place < dy.data.length; place++) {
      for (const p of core.productsOfOutput(layer, maps, core.indicesOf(dy.shape, place))) {
        assert.equal(read(padded, p.padded), read(x, p.input));
      }
    }
    const { kernel, windows } = core.matrices(layer, x, k);
    const [rows, inner] = kernel.shape;
    const product = [];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < windows.shape[1]; column++) {
        let sum = 0;
        for (let i = 0; i < inner; i++) sum += core.valueAt(kernel, [row, i]) * core.valueAt(windows, [i, column]);
        product.push(sum);
      }
    }
    close("matrices", product, [...core.correlate(layer, x, k).data]);
  }
});

function sameOptions(layer, options, name) {
  const axes = [layer.rows, layer.columns].slice(2 - layer.axes);
  assert.deepEqual(
    {
      kernel: axes.map((axis) => axis.kernel),
      stride: axes.map((axis) => axis.stride),
      padding: axes.map((axis) => [axis.before, axis.after]),
      dilation: axes.map((axis) => axis.dilation),
      groups: layer.groups,
    },
    options,
    name,
  );
}

test("two layers in a row: kernel, bias, exactness and the pixels that differ", () => {
  for (const given of drawn.rows) {
    const name = JSON.stringify([given.first, given.second]);
    const first = block(given.first, given.k1, given.b1);
    const second = block(core.after(given.first, given.second), given.k2, given.b2);
    const folded = core.compose(first, second);
    sameOptions(folded.block.layer, given.options, name);
    close(`${name} kernel`, folded.block.kernel.data, given.kernel);
    assert.equal(folded.block.bias === null, given.bias === null, name);
    if (given.bias) close(`${name} bias`, folded.block.bias.data, given.bias);
    assert.equal(folded.exact, given.exact, name);
    for (const axis of ["rows", "columns"]) {
      const field = core.receptiveField([given.first[axis], given.second[axis]]);
      const whole = folded.block.layer[axis];
      assert.deepEqual(field, { size: core.extentOf(whole), stride: whole.stride }, name);
    }
    const x = core.tensor(core.inputShape(given.first), given.x);
    const [naive, both] = [core.applyBlock(folded.block, x), core.applyBlock(second, core.applyBlock(first, x))];
    const scale = Math.max(1, core.largestMagnitude(naive));
    const differences = [...naive.data].map((value, place) => (value - both.data[place]) / scale);
    close(`${name} difference`, differences, given.difference.map((value) => value / scale));
    const { read, used } = core.beyondBorder(first, second, x);
    const missing = core.tensor(read.shape, read.data.map((value, place) => (used.data[place] - value) / scale));
    const unpadded = (axis, size) => ({ ...axis, size, before: 0, after: 0 });
    const { rows, columns } = second.layer;
    const inner = { ...second.layer, rows: unpadded(rows, read.shape[1]), columns: unpadded(columns, read.shape[2]) };
    close(`${name} explained`, core.correlate(inner, missing, second.kernel).data, differences);
  }
});

test("branches: kernel, bias and output", () => {
  for (const given of drawn.branches) {
    const name = JSON.stringify(given.layers);
    assert.equal(core.branchRefusal(given.layers), null, name);
    const whole = core.sumBranches(given.layers.map((layer, i) => block(layer, given.kernels[i], given.biases[i])));
    sameOptions(whole.layer, given.options, name);
    close(`${name} kernel`, whole.kernel.data, given.kernel);
    assert.equal(whole.bias === null, given.bias === null, name);
    if (given.bias) close(`${name} bias`, whole.bias.data, given.bias);
    const x = core.tensor(core.inputShape(given.layers[0]), given.x);
    close(`${name} y`, core.applyBlock(whole, x).data, given.y);
  }
});

test("kernels: singular values, and a column and a row where there are such", () => {
  for (const given of drawn.factors) {
    const kernel = core.tensor(given.shape, given.kernel);
    const found = core.factor(kernel);
    const largest = Math.max(1e-300, given.singular[0]);
    given.singular.forEach((value, i) => {
      assert.ok(Math.abs((found.singularValues[i] ?? 0) - value) <= 1e-12 * largest, `${given.shape} ${i}`);
    });
    const product = [...found.column.data].flatMap((a) => [...found.row.data].map((b) => a * b));
    const error = Math.hypot(...product.map((value, place) => value - given.kernel[place]));
    assert.ok(Math.abs(error - found.error) <= 1e-11 * largest + 1e-12);
    assert.equal(found.exact, (given.singular[1] ?? 0) <= 1e-12 * largest);
  }
});

test("large layers: every formula's value, changes, and the inputs that strips of outputs read", () => {
  assert.ok(drawn.costs.length >= 200);
  const written = (formula) => String(core.valueOf(formula));
  const texts = (totals) => Object.fromEntries(Object.entries(totals).map(([name, count]) => [name, String(count)]));
  for (const { layer, options, ...given } of drawn.costs) {
    const name = JSON.stringify({ layer, options });
    const operations = core.operationFormulas(layer, options);
    const counts = core.PASSES.map((pass) => core.OPERATIONS.map((kind) => written(operations[pass][kind])));
    assert.deepEqual(counts, given.operations, name);
    const { forward, backward } = core.memoryFormulas(layer, options);
    assert.deepEqual([...Object.values(forward), ...Object.values(backward)].map(written), given.memory, name);
    assert.deepEqual(texts(core.totalsOf(layer, options)), given.before, name);
    assert.deepEqual(texts(core.totalsOf(core.changedLayer(layer, given.change), options)), given.after, name);
    const axes = [layer.rows, layer.columns].slice(2 - layer.axes);
    const reads = axes.map((axis, place) => core.readsOf(axis, given.strip[place]));
    assert.equal(reads.reduce((product, n) => product * n, 1), given.reads, name);
    axes.forEach((axis, place) => assert.ok(core.leastReads(axis) * given.strip[place] <= reads[place], name));
  }
});
