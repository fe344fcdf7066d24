// Lines of a pen as a digit of MNIST: 28 x 28 grey values, 1 is ink.
import { SIDE, clamp, range, sum } from "./matrix.js";

const BOX = 20, PEN = 1.15, LARGEST = 8; // pixels: where the ink must fit, the pen's radius; how far a small drawing is enlarged

// Grey values (1 is ink) of lines, each a list of points [x, y] in pixels, under a soft round pen.
export function rendered(lines) {
  const grey = new Float64Array(SIDE * SIDE), reach = PEN + 0.5;
  const span = (a, b) => [Math.floor(clamp(Math.min(a, b) - reach, 0, SIDE)), Math.ceil(clamp(Math.max(a, b) + reach, 0, SIDE))];
  for (const line of lines) line.forEach(([bx, by], k) => {
    const [ax, ay] = line[Math.max(k - 1, 0)], dx = bx - ax, dy = by - ay, long = dx * dx + dy * dy || 1;
    const [[left, right], [top, bottom]] = [span(ax, bx), span(ay, by)];
    for (let row = top; row < bottom; row++) for (let column = left; column < right; column++) {
      const x = column + 0.5 - ax, y = row + 0.5 - ay, t = clamp((x * dx + y * dy) / long, 0, 1), at = SIDE * row + column;
      grey[at] = Math.max(grey[at], Math.min(reach - Math.hypot(x - t * dx, y - t * dy), 1));
    }
  });
  return grey;
}

export const centreOfMass = grey => [k => k % SIDE, k => Math.floor(k / SIDE)]
  .map(place => grey.reduce((total, v, k) => total + v * (place(k) + 0.5), 0) / sum(grey));

// MNIST's convention: the ink fits into 20 x 20 pixels, and its centre of mass is the centre of 28 x 28. The pen keeps its width.
export function centred(lines) {
  if (!lines.length) return rendered(lines);
  const bounds = range(2).map(i => lines.flat().map(point => point[i])).map(values => [Math.min(...values), Math.max(...values)]);
  const scale = Math.min((BOX - 2 * PEN) / Math.max(...bounds.map(([low, high]) => high - low)), LARGEST);
  const about = centre => rendered(lines.map(line => line.map(point => point.map((v, i) => (v - centre[i]) * scale + SIDE / 2))));
  const middle = bounds.map(([low, high]) => (low + high) / 2), mass = centreOfMass(about(middle));
  return about(middle.map((v, i) => v + (mass[i] - SIDE / 2) / scale));
}
