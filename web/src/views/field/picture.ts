/** A picture of any size, computed from formulas. */

/** Return the brightness from 0 to 255 at a point of the unit square, from the upper left: a house before hills. */
function brightness(x: number, y: number): number {
  const house = Math.abs(x - 0.3);
  if (y > 0.82 + 0.04 * Math.sin(9 * x)) return 96;
  if (house < 0.13 && y > 0.6) return house < 0.035 && y > 0.68 ? 60 : 236;
  if (y > 0.44 && house < 1.05 * (y - 0.42) && y <= 0.6) return 72;
  if (y > 0.56 + 0.1 * Math.sin(5 * x)) return 142;
  return Math.hypot(x - 0.76, y - 0.22) < 0.11 ? 255 : 186 + 50 * y;
}

/** Draw a picture of `size` × `size` pixels, whose upper left corner is at a place of the drawing. */
export function drawPicture(context: CanvasRenderingContext2D, size: number, at: number): void {
  const image = context.createImageData(size, size);
  for (let place = 0; place < size * size; place++) {
    image.data.fill(brightness(((place % size) + 0.5) / size, (Math.floor(place / size) + 0.5) / size), 4 * place, 4 * place + 3);
    image.data[4 * place + 3] = 255;
  }
  context.putImageData(image, at, at);
}
