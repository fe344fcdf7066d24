// What the figure "draw" shows of an image: four canvases, each drawn from what `look` gives.
import { digitColours, picture } from "./canvas.js";
import { SIDE } from "./matrix.js";

const between = (low, v, high) => Math.min(Math.max(v, low), high);
const small = c => { c.font = c.font.replace("13px", "11px"); };
const dot = (c, x, y, radius) => { c.moveTo(x + radius, y); c.arc(x, y, radius, 0, 7); };
const round = (c, [x, y], a, b = a) => { c.beginPath(); c.ellipse(x, y, a, b, 0, 0, 7); };

// The map and the lens: `flat` and `close` give the places of a point of the plane in both.
const PRIOR = Math.sqrt(-2 * Math.log(0.05)); // radius that holds 95% of N(0, I)
function plan({ width, height }, q) {
  const scale = height / 6.5, radius = 0.17 * height, lens = [width - radius - 2, height - radius - 2];
  const sigma = q.logVar.map(v => Math.exp(v / 2)), power = [40, 20, 10, 5].find(power => 2.3 * Math.max(...sigma) * scale * power < radius) ?? 2;
  const flat = ([a, b]) => [Math.min(height, width * 0.86) / 2 + a * scale, height / 2 - b * scale];
  const close = ([a, b]) => [lens[0] + (a - q.mu[0]) * scale * power, lens[1] - (b - q.mu[1]) * scale * power];
  return { scale, radius, lens, sigma, power, flat, close };
}
const centredText = c => Object.assign(c, { textAlign: "center", textBaseline: "middle" });

// Test digits at their posterior means: what does not move.
export function drawMap(c, view, shown, digits) {
  const { flat, scale } = plan(view, shown.q), inks = digitColours(view);
  c.fillStyle = view.rule;
  for (const v of [-2, 0, 2]) { c.fillRect(...flat([v, 3.1]), 1, 6.2 * scale); c.fillRect(...flat([-3, v]), 6 * scale, 1); }
  centredText(c).font = c.font.replace("13px", "600 9px");
  for (const { label, z } of digits) { c.fillStyle = inks[label]; c.fillText(label, ...flat(z)); }
  c.strokeStyle = view.muted;
  c.setLineDash([4, 4]);
  round(c, flat([0, 0]), PRIOR * scale);
  c.moveTo(0, view.height - 8);
  c.lineTo(22, view.height - 8);
  c.stroke();
  c.setLineDash([]);
  c.fillStyle = view.muted;
  c.textAlign = "left";
  c.font = c.font.replace("600 9px", "11px");
  c.fillText("95% of the prior", 28, view.height - 8);
}

// The posterior on the map, and through a lens: one and two standard deviations, draws as dots.
export function drawPosterior(c, view, { q, z }, digits) {
  const { flat, close, lens, radius, scale, power, sigma } = plan(view, q), { text, muted, paper } = view, here = flat(q.mu), inks = digitColours(view);
  const ring = Math.max(radius / power, 5), angle = Math.atan2(lens[1] - here[1], lens[0] - here[0]);
  c.strokeStyle = text;
  c.lineWidth = 1.5;
  round(c, here, ring);
  c.stroke();
  c.globalAlpha = 0.5;
  c.beginPath();
  for (const turn of [angle + 1.5, angle - 1.5]) for (const [[x, y], r] of [[here, ring], [lens, radius]]) c[r === ring ? "moveTo" : "lineTo"](x + r * Math.cos(turn), y + r * Math.sin(turn));
  c.stroke();
  c.globalAlpha = 1;
  c.save();
  round(c, lens, radius);
  c.fillStyle = paper;
  c.fill();
  c.stroke();
  c.clip();
  centredText(c).font = c.font.replace("13px", "600 13px");
  for (const { label, z } of digits) { const [x, y] = close(z); if (Math.hypot(x - lens[0], y - lens[1]) < radius + 9) { c.fillStyle = inks[label]; c.fillText(label, x, y); } }
  c.fillStyle = text;
  for (const times of [2, 1]) {
    round(c, lens, ...sigma.map(s => times * s * scale * power));
    c.globalAlpha = 0.1;
    c.fill();
    c.globalAlpha = 1;
    c.stroke();
  }
  c.beginPath();
  for (const draw of z) dot(c, ...close(draw), 3);
  c.fill();
  c.restore();
  c.fillStyle = muted;
  c.textAlign = "right";
  c.fillText(`×${power}`, lens[0] + radius, lens[1] - 0.8 * radius);
}

// Mean and standard deviation of each latent over those of the prior, its draws, and below what it pays in KL.
export function drawLatents(c, { width, height, text, muted, tint, rule, indigo, orange }, { q, z, kl }) {
  const left = 22, step = (width - left) / kl.length, tall = height - 44, y = v => tall / 2 - between(-3.2, v, 3.2) * tall / 6.4, wide = between(3, step * 0.55, 14);
  small(c);
  c.fillStyle = tint;
  c.fillRect(left, y(1), width - left, y(-1) - y(1));
  c.fillStyle = rule;
  for (const v of [-2, 0, 2]) c.fillRect(left, y(v), width - left, 1);
  c.fillRect(left, height - 1, width - left, 1);
  c.fillStyle = muted;
  for (const v of [-2, 0, 2]) c.fillText(String(v).replace("-", "\u2212"), 2, y(v) + 4);
  c.fillText("KL", 2, height - 2);
  q.mu.forEach((m, i) => {
    const x = left + (i + 0.5) * step, sigma = Math.exp(q.logVar[i] / 2), paid = Math.min(kl[i] * 8, 36);
    c.fillStyle = indigo;
    c.globalAlpha = 0.3;
    c.fillRect(x - wide / 2, y(Math.max(m, 0)), wide, Math.abs(y(m) - y(0)));
    c.globalAlpha = 1;
    c.fillRect(x - 0.75, y(m + sigma), 1.5, y(m - sigma) - y(m + sigma));
    for (const end of [m - sigma, m + sigma]) c.fillRect(x - wide / 3, y(end) - 0.75, wide * 2 / 3, 1.5);
    c.fillStyle = orange;
    c.fillRect(x - wide / 2, height - 1 - paid, wide, paid);
    c.fillStyle = text;
    c.beginPath();
    for (const draw of z) dot(c, x, y(draw[i]), 1.4);
    c.fill();
  });
}

// x, then what the decoder makes of each draw, with its reconstruction term below.
export function drawSamples(c, { width, height, muted, ...colours }, { x, pictures, costs }) {
  const size = height - 20, gap = (width - size) / pictures.length - size;
  c.textAlign = "center";
  [x, ...pictures].forEach((pixels, i) => {
    const left = i * (size + gap);
    picture(c, pixels, SIDE, left, 0, size, colours);
    c.strokeStyle = i ? colours.rule : muted;
    c.strokeRect(left + 0.5, 0.5, size - 1, size - 1);
    c.fillStyle = i ? colours.indigo : muted;
    c.fillText(i ? costs[i - 1].toFixed(1) : "x", left + size / 2, height - 3);
  });
}

// The terms end to end on a scale in nats, and where an average test digit ends.
export function drawLoss(c, { width, height, text, muted, paper, indigo, orange, rule }, { reconstruction: cost, kl, loss }, average) {
  const limit = [200, 400, 800].find(limit => loss < 0.95 * limit) ?? 1600, x = v => v / limit * width;
  small(c);
  c.fillStyle = rule;
  c.fillRect(0, 0, width, 16);
  c.fillStyle = indigo;
  c.fillRect(0, 0, x(cost), 16);
  c.fillStyle = orange;
  c.fillRect(x(cost) + 1, 0, x(kl), 16);
  c.fillStyle = text;
  c.fillRect(x(average) - 1, -2, 2, 24);
  c.textAlign = "center";
  c.fillText("average test digit", between(50, x(average), width - 50), 34);
  c.fillStyle = muted;
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    c.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
    if (Math.abs(x(limit * share) - x(average)) > 75) c.fillText(limit * share, width * share, 32);
  }
}
