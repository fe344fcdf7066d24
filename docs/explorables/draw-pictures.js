// What the figure "draw" shows of an image: four canvases, each drawn from what `look` gives.
import { digitColours, dot, line, number, picture } from "./canvas.js";
import { PRIOR_95, SIDE, clamp } from "./matrix.js";

const small = c => { c.font = c.font.replace("13px", "11px"); };
const round = (c, [x, y], a, b = a) => { c.beginPath(); c.ellipse(x, y, a, b, 0, 0, 7); };

// The map, and the lens over the mean of q: where a point of the plane is in each.
function mapOf({ width, height }) {
  const scale = height / 6.5;
  return { scale, flat: ([a, b]) => [Math.min(height, width * 0.86) / 2 + a * scale, height / 2 - b * scale] };
}
function lensOf({ width, height }, { mu, logVar }) {
  const { scale } = mapOf({ width, height }), radius = 0.17 * height, lens = [width - radius - 2, height - radius - 2];
  const sigma = logVar.map(v => Math.exp(v / 2)), power = [40, 20, 10, 5].find(power => 2.3 * Math.max(...sigma) * scale * power < radius) ?? 2;
  const close = ([a, b]) => [lens[0] + (a - mu[0]) * scale * power, lens[1] - (b - mu[1]) * scale * power];
  return { radius, lens, power, close, axes: sigma.map(s => s * scale * power) };
}
const centredText = c => Object.assign(c, { textAlign: "center", textBaseline: "middle" });

// Test digits at their posterior means: what does not move.
export function drawMap(c, view, digits) {
  const { flat, scale } = mapOf(view), inks = digitColours(view);
  c.fillStyle = view.rule;
  for (const v of [-2, 0, 2]) { c.fillRect(...flat([v, 3.1]), 1, 6.2 * scale); c.fillRect(...flat([-3, v]), 6 * scale, 1); }
  centredText(c).font = c.font.replace("13px", "600 9px");
  for (const { label, z } of digits) { c.fillStyle = inks[label]; c.fillText(label, ...flat(z)); }
  c.strokeStyle = view.muted;
  c.setLineDash([4, 4]);
  round(c, flat([0, 0]), PRIOR_95 * scale);
  c.stroke();
  line(c, [[0, view.height - 8], [22, view.height - 8]], { colour: view.muted, dash: [4, 4] });
  c.fillStyle = view.muted;
  c.textAlign = "left";
  c.font = c.font.replace("600 9px", "11px");
  c.fillText("95% of the prior", 28, view.height - 8);
}

// The posterior on the map, and through a lens: one and two standard deviations, draws as dots.
export function drawPosterior(c, view, { q, z }, digits) {
  const { close, lens, radius, power, axes } = lensOf(view, q), { flat } = mapOf(view), { text, muted, paper } = view, here = flat(q.mu), inks = digitColours(view);
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
    round(c, lens, ...axes.map(a => times * a));
    c.globalAlpha = 0.1;
    c.fill();
    c.globalAlpha = 1;
    c.stroke();
  }
  for (const draw of z) dot(c, ...close(draw), 3, { colour: text });
  c.restore();
  c.fillStyle = muted;
  c.textAlign = "right";
  c.fillText(`×${power}`, lens[0] + radius, lens[1] - 0.8 * radius);
}

// Mean and standard deviation of each latent over those of the prior, its draws, and below what it pays in KL; only the scales without a q.
export function drawLatents(c, { width, height, text, muted, tint, rule, indigo, orange }, { q, z, kl }, latents) {
  const sigma = q?.logVar.map(v => Math.exp(v / 2)), far = q ? Math.max(...q.mu.map((m, i) => Math.abs(m) + sigma[i]), ...z.flatMap(draw => [...draw].map(Math.abs))) : 0;
  const left = 22, step = (width - left) / latents, tall = height - 44, reach = Math.max(3.2, 1.05 * far), y = v => tall / 2 * (1 - v / reach), wide = clamp(step * 0.55, 3, 14);
  small(c);
  c.fillStyle = tint;
  c.fillRect(left, y(1), width - left, y(-1) - y(1));
  c.fillStyle = rule;
  for (const v of [-2, 0, 2]) c.fillRect(left, y(v), width - left, 1);
  c.fillRect(left, height - 1, width - left, 1);
  c.fillStyle = muted;
  for (const v of [-2, 0, 2]) c.fillText(number(v, 0), 2, y(v) + 4);
  c.fillText("KL", 2, height - 2);
  if (!q) return;
  const most = Math.max(...kl), high = 28 / Math.max(3, most); // the bars leave room for the number of the highest
  q.mu.forEach((m, i) => {
    const x = left + (i + 0.5) * step, paid = kl[i] * high;
    c.fillStyle = indigo;
    c.globalAlpha = 0.3;
    c.fillRect(x - wide / 2, y(Math.max(m, 0)), wide, Math.abs(y(m) - y(0)));
    c.globalAlpha = 1;
    c.fillRect(x - 0.75, y(m + sigma[i]), 1.5, y(m - sigma[i]) - y(m + sigma[i]));
    for (const end of [m - sigma[i], m + sigma[i]]) c.fillRect(x - wide / 3, y(end) - 0.75, wide * 2 / 3, 1.5);
    c.fillStyle = orange;
    c.fillRect(x - wide / 2, height - 1 - paid, wide, paid);
    c.textAlign = "center";
    if (kl[i] === most) c.fillText(number(most), x, height - 4 - paid);
    for (const draw of z) dot(c, x, y(draw[i]), 1.4, { colour: text });
  });
}

// x, then what the decoder makes of each draw, with its reconstruction term below; empty frames without pictures.
export function drawSamples(c, { width, height, muted, ...colours }, { x, pictures, costs }, draws) {
  const size = height - 20, gap = (width - size) / draws - size;
  c.textAlign = "center";
  for (let i = 0; i <= draws; i++) {
    const left = i * (size + gap), pixels = i ? pictures?.[i - 1] : x;
    if (pixels) picture(c, pixels, SIDE, left, 0, size, colours);
    c.strokeStyle = i ? colours.rule : muted;
    c.strokeRect(left + 0.5, 0.5, size - 1, size - 1);
    c.fillStyle = i ? colours.indigo : muted;
    c.fillText(i ? (costs ? number(costs[i - 1]) : "\u2026") : "x", left + size / 2, height - 3);
  }
}

// The terms, if there are any, end to end on a scale in nats, and where an average test digit ends.
export function drawLoss(c, { width, text, muted, indigo, orange, rule }, total, average) {
  let limit = 200;
  while (total?.loss >= 0.95 * limit) limit *= 2;
  const x = v => v / limit * width;
  small(c);
  c.fillStyle = rule;
  c.fillRect(0, 0, width, 16);
  if (total) {
    c.fillStyle = indigo;
    c.fillRect(0, 0, x(total.reconstruction), 16);
    c.fillStyle = orange;
    c.fillRect(x(total.reconstruction) + 1, 0, x(total.kl), 16);
  }
  c.fillStyle = text;
  c.fillRect(x(average) - 1, -2, 2, 24);
  c.textAlign = "center";
  c.fillText("average test digit", clamp(x(average), 50, width - 50), 34);
  c.fillStyle = muted;
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    c.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
    if (Math.abs(x(limit * share) - x(average)) > 75) c.fillText(limit * share, width * share, 32);
  }
}
