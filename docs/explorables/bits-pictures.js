// The pictures of bits back: image and code, in hand or on the stack; the height of the stack over the steps; the stack itself.
import { STEPS } from "./ans.js";
import { dot, line, narrow, number } from "./canvas.js";
import { SIDE, clamp, range } from "./matrix.js";

// What each of the six moves does, and by which probabilities: there, then back.
export const MOVES = [["z", "off", "q(z|x)"], ["x", "on", "p(x|z)"], ["z", "on", "p(z)"], ["z", "off", "p(z)"], ["x", "off", "p(x|z)"], ["z", "on", "q(z|x)"]];

// The value at x of the line through the points (from[i], to[i]).
function along(from, to, x) {
  const i = Math.max(1, from.findIndex(end => x <= end));
  return to[i - 1] + ((x - from[i - 1]) / (from[i] - from[i - 1])) * (to[i] - to[i - 1]);
}

// Where everything stands in a canvas of this size. A step of the way back stands where the way there had the same stack.
export function layout({ width, height }, { steps, ends }, step, elbo) {
  const small = narrow(), pixel = small ? 5 : 7, side = SIDE * pixel;
  const beside = { left: side + 20, top: 22, columns: 5, wide: (width - side - 20) / 5, tall: 33 };
  const below = { left: 0, top: side + 46, columns: 10, wide: side / 10, tall: 25 };
  const left = small ? 38 : side + 66, right = width - 62, top = small ? 228 : 42, bottom = height - 8;
  const half = ends[2], back = step > half, there = s => (s > half ? 2 * half - s : s);
  const heights = steps.slice(0, half + 1).map(s => s.bits), low = Math.min(...heights) - 72, high = Math.max(elbo, ...heights) + 32;
  const starts = [0, ...ends.slice(0, 3)], marks = (small ? [0, 0.27, 0.73, 1] : [0, 0.22, 0.78, 1]).map(share => left + share * (right - left));
  return {
    pixel, side, code: small ? beside : below, left, right, top, bottom, back, heights, low, high, starts,
    place: there(step), // the step on the way there
    X: s => along(starts, marks, there(s)),
    Y: bits => bottom - ((bits - low) / (high - low)) * (bottom - top),
    stepAt: x => { const s = Math.round(along(marks, starts, clamp(x, left, right))); return back ? 2 * half - s : s; },
  };
}

const write = (context, words, x, y, colour, align = "left") => Object.assign(context, { fillStyle: colour, textAlign: align }).fillText(words, x, y);
function fill(context, colour, alpha, ...box) {
  Object.assign(context, { globalAlpha: alpha, fillStyle: colour }).fillRect(...box);
  context.globalAlpha = 1;
}

// Ink where a pixel is in hand, its bits in orange where it is on the stack.
export function drawImage(context, { muted, rule, text, orange }, { pixel, side, place }, { steps, ends: [Z, before], x }) {
  write(context, "image x", 0, 14, muted);
  fill(context, rule, 0.35, 0, 22, side, side);
  for (const d of range(before - Z)) {
    const put = before - d, box = [(d % SIDE) * pixel, 22 + Math.floor(d / SIDE) * pixel, pixel, pixel]; // the last pixel goes first
    const cost = steps[put].bits - steps[put - 1].bits;
    if (place >= put) fill(context, orange, 0.08 + 0.92 * Math.min(1, cost / 4), ...box);
    else if (x[d]) fill(context, text, 1, ...box);
  }
}

// A bar from the middle where a number of the code is in hand, green where it is on the stack.
export function drawCode(context, { muted, rule, text, green }, { code: { left, top, columns, wide, tall }, place }, { steps, ends: [Z, before] }) {
  write(context, "code z", left, top - 8, muted);
  for (const j of range(Z)) {
    const x = left + (j % columns) * wide, y = top + Math.floor(j / columns) * tall, on = place >= before + Z - j;
    if (on) fill(context, green, 0.7, x, y, wide - 2, tall - 2);
    else fill(context, rule, 0.35, x, y, wide - 2, tall - 2);
    const value = clamp(steps[j + 1].value / STEPS / 2.5, -1, 1);
    if (place > j && !on) fill(context, text, 1, x + wide * 0.3, y + tall / 2 - 1, wide * 0.4, -value * (tall / 2 - 2));
  }
}

// The height of the stack; each move has its colour and its part of the width.
export function drawHeights(context, { muted, rule, text, purple, orange, indigo, green }, where, { steps }, step, elbo) {
  const { left, right, top, bottom, low, high, heights, starts, back, place, X, Y } = where;
  write(context, "bits", left - 6, top - 8, muted, "right");
  for (let bits = Math.ceil(low / 50) * 50; bits < high; bits += 50) {
    write(context, number(bits, 0), left - 6, Y(bits) + 4, muted, "right");
    line(context, [[left, Y(bits)], [right, Y(bits)]], { colour: rule });
  }
  line(context, [[left, Y(elbo)], [right, Y(elbo)]], { colour: purple, dash: [5, 4] });
  write(context, "negative ELBO", left + 4, Y(elbo) - 5, purple);
  [orange, indigo, green].forEach((colour, part) => {
    const [from, to] = [starts[part], starts[part + 1]], middle = (X(from) + X(to)) / 2;
    const move = back ? 5 - part : part, [thing, way, law] = MOVES[move], active = step > 0 && steps[step].move === move, ink = active ? text : muted;
    const before = active && back ? "← " : "", after = active && !back ? " →" : "";
    write(context, `${before}${thing} ${way}${after}`, middle, top - 24, ink, "center");
    write(context, law, middle, top - 8, ink, "center");
    if (part) line(context, [[X(from), Y(high - 32)], [X(from), bottom]], { colour: rule });
    const points = range(to - from + 1).map(i => [X(from + i), Y(heights[from + i])]);
    context.globalAlpha = 0.25;
    line(context, points, { colour, width: 2 });
    context.globalAlpha = 1;
    line(context, points.slice(0, Math.max(0, place - from + 1)), { colour, width: 2 });
  });
  dot(context, X(place), Y(heights[place]), 5, { colour: text });
}

// The stack itself: the head, the words under it, the random bits below.
export function drawStack(context, { width, muted, text, purple, indigo, orange }, { top, bottom, low, place, X, Y }, { words, borrowed, bits }) {
  const [left, right] = [width - 44, width - 6];
  const zone = (colour, alpha, from, to) => fill(context, colour, alpha, left, Y(to) + 1, right - left, Math.min(bottom, Y(from)) - Y(to) - 1);
  write(context, "stack", (left + right) / 2, top - 24, muted, "center");
  for (let k = borrowed; -32 * k > low; k++) zone(purple, 0.35, -32 * (k + 1), -32 * k);
  for (const k of range(words)) zone(indigo, 0.75, 32 * (k - borrowed), 32 * (k + 1 - borrowed));
  zone(orange, 1, 32 * (words - borrowed), bits);
  line(context, [[X(place), Y(bits)], [right, Y(bits)]], { colour: text });
}
