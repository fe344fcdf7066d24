// A normal law over z that a hand moves: its curve, the two points by which it is held, and the keys that do the same.
import { arrows, dot, dragged, element, line, number } from "./canvas.js";

export const density = (z, mu, std) => Math.exp(-0.5 * ((z - mu) / std) ** 2) / (std * Math.sqrt(2 * Math.PI));

// A part of a canvas and its two scales: numbers from `low` to `high` upwards, z from `from` to `to`.
export const frame = ({ left, right, top, bottom, from, to, low = 0, high }) => ({
  left, right, top, bottom, from, to,
  x: z => left + (z - from) / (to - from) * (right - left),
  y: value => bottom - (value - low) / (high - low) * (bottom - top),
  z: x => from + (x - left) / (right - left) * (to - from),
});

// A function's curve across a frame; with `fill`, also the area below it.
export function curve(context, f, { left, right, bottom, y, z }, colour, { width = 2, dash = [], fill } = {}) {
  context.beginPath();
  for (let x = left; x <= right; x++) context.lineTo(x, y(f(z(x))));
  Object.assign(context, { strokeStyle: colour, lineWidth: width, lineJoin: "round" });
  context.setLineDash(dash);
  context.stroke();
  context.setLineDash([]);
  if (!fill) return;
  context.lineTo(right, bottom);
  context.lineTo(left, bottom);
  Object.assign(context, { fillStyle: colour, globalAlpha: fill });
  context.fill();
  context.globalAlpha = 1;
}

// A scale below a frame, with its name at the right end.
export function scale(context, { left, right, bottom, x }, ticks, name, { muted, rule }) {
  line(context, [[left, bottom + 0.5], [right, bottom + 0.5]], { colour: rule });
  Object.assign(context, { fillStyle: muted, textAlign: "center", textBaseline: "top" });
  for (const tick of ticks) context.fillText(number(tick, 0), x(tick), bottom + 6);
  context.textAlign = "right";
  context.fillText(name, right, bottom + 6);
}

// What the colours mean: [words, variable of the colour, class] each; without a colour, words alone.
export const legend = (...entries) => element("p", { className: "explorable-legend" }, ...entries.map(([text, colour, className = ""]) =>
  element("span", { text, className: colour ? className : "is-plain", style: colour ? `--colour: var(${colour})` : "" })));

// The points that hold q: at its top for the mean, at one standard deviation for the width.
export function handles(context, { mu, std }, { x, y }, colour, paper) {
  const side = y(density(std, 0, std));
  line(context, [[x(mu), side], [x(mu + std), side]], { colour, width: 1.5 });
  dot(context, x(mu), y(density(0, 0, std)), 8, { colour, ring: paper });
  dot(context, x(mu + std), side, 7, { colour: paper, ring: colour });
}

// Pointer and arrow keys move q: `change(mu, std)`. `frameAt(x, y)` is the frame of density below a point. Not by its width, q is moved from
// wherever it is touched; a finger that moves up or down scrolls the page.
export function held(node, frameAt, q, change) {
  let where, widens, offset;
  dragged(node, (x, y, event, first) => {
    const { mu, std } = q();
    if (first) {
      where = frameAt(x, y);
      const height = where.y(density(std, 0, std)), reach = z => Math.hypot(x - where.x(z), y - height);
      const side = Math.min(reach(mu + std), reach(mu - std));
      widens = side < 28 && side < Math.hypot(x - where.x(mu), y - where.y(density(0, 0, std)));
      offset = where.z(x) - mu;
    } else if (widens) change(mu, Math.abs(where.z(x) - mu));
    else change(where.z(x) - offset, std);
  });
  node.style.touchAction = "pan-y";
  arrows(node, (dx, dy) => change(q().mu + 0.05 * dx, q().std * 1.05 ** -dy));
}
