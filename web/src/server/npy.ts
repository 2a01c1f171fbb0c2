/** Numbers of a .npy file, as the server sends them. */

/** The values of a picture by row and column, one for each channel. */
export interface Numbers {
  readonly shape: readonly number[];
  readonly at: (row: number, column: number) => number[];
}

type Read = (view: DataView, offset: number) => number;

const READERS: Readonly<Record<string, readonly [bytes: number, read: Read]>> = {
  u1: [1, (view, offset) => view.getUint8(offset)],
  i1: [1, (view, offset) => view.getInt8(offset)],
  u2: [2, (view, offset) => view.getUint16(offset, true)],
  i2: [2, (view, offset) => view.getInt16(offset, true)],
  u4: [4, (view, offset) => view.getUint32(offset, true)],
  i4: [4, (view, offset) => view.getInt32(offset, true)],
  u8: [8, (view, offset) => Number(view.getBigUint64(offset, true))],
  i8: [8, (view, offset) => Number(view.getBigInt64(offset, true))],
  f2: [2, (view, offset) => half(view.getUint16(offset, true))],
  f4: [4, (view, offset) => view.getFloat32(offset, true)],
  f8: [8, (view, offset) => view.getFloat64(offset, true)],
};

function half(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** Read a .npy file of rows and columns, or of rows, columns and channels; null for what is none. */
export function numbersOf(file: ArrayBuffer): Numbers | null {
  const view = new DataView(file);
  const start = 10 + (file.byteLength > 10 ? view.getUint16(8, true) : 0);
  const header = new TextDecoder().decode(new Uint8Array(file, 0, Math.min(start, file.byteLength)));
  const [, kind] = /'descr': '[<|=]([a-z]\d)'/.exec(header) ?? [];
  const [, sizes] = /'shape': \(([\d, ]+)\)/.exec(header) ?? [];
  const reader = kind ? READERS[kind] : undefined;
  if (!reader || !sizes || header.includes("'fortran_order': True")) return null;
  const [bytes, read] = reader;
  const shape = sizes.split(",").filter((size) => size.trim()).map(Number);
  const [, columns = 1, channels = 1] = shape;
  if (start + shape.reduce((product, size) => product * size, bytes) !== file.byteLength) return null;
  const at = (row: number, column: number): number[] =>
    Array.from({ length: channels }, (_, channel) => read(view, start + ((row * columns + column) * channels + channel) * bytes));
  return { shape, at };
}

/** Write rows of numbers as a .npy file of float64. */
export function npyOf(values: readonly (readonly number[])[]): ArrayBuffer {
  const described = `{'descr': '<f8', 'fortran_order': False, 'shape': (${values.length}, ${values[0]!.length}), }`;
  const start = 64 * Math.ceil((10 + described.length + 1) / 64);
  const text = `\x93NUMPY\x01\x00${String.fromCharCode((start - 10) & 255, (start - 10) >> 8)}${described.padEnd(start - 11)}\n`;
  const numbers = values.flat();
  const file = new ArrayBuffer(start + 8 * numbers.length);
  new Uint8Array(file).set(Array.from(text, (letter) => letter.charCodeAt(0)));
  const view = new DataView(file);
  numbers.forEach((value, place) => view.setFloat64(start + 8 * place, value, true));
  return file;
}
