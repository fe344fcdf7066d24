// One slider over models trained with different weights of the KL: what each draws, and where it lies on the curve.
import { read } from "./load.js";
import { announcer, canvas, element, picture, slider } from "./canvas.js";
import { decode, encode } from "./matrix.js";

const SIDE = 28, COLUMNS = 6;

// The picture that a model gives back of a digit: decoded from the posterior's mean.
export const reconstruct = (model, x) => decode(model, encode(model, x).mu);

// Rows of a table of numbers: { shape: [rows, n], data }.
export const rowsOf = ({ shape: [rows, n], data }) => Array.from({ length: rows }, (_, i) => data.slice(i * n, (i + 1) * n));

export async function mount(place, { data }) {
  const { facts: { betas, rates, distortions }, digits, z } = await read(`${data}beta.safetensors`);
  const images = rowsOf(digits), codes = rowsOf(z), sums = rates.map((rate, i) => rate + distortions[i]), best = Math.min(...sums);
  const pictures = new Map();
  let now = sums.indexOf(best), shown;

  // A model is fetched when the slider first comes to it, or when the hand comes near.
  function drawn(i) {
    if (!pictures.has(i)) pictures.set(i, read(`${data}beta-${betas[i]}.safetensors`).then(model => ({
      reconstructions: images.map(x => reconstruct(model, x)), samples: codes.map(code => decode(model, code)),
    })));
    return pictures.get(i);
  }
  async function go(i) {
    now = bar.value = i;
    curve.redraw();
    const price = sums[i] - best, words = `β ${betas[i]}: rate ${rates[i].toFixed(1)} and distortion ${distortions[i].toFixed(1)} are ${sums[i].toFixed(1)} nats`;
    say(words + (price < 0.05 ? ", the lowest sum." : `, ${price.toFixed(1)} more than at β ${betas[sums.indexOf(best)]}.`));
    curve.node.setAttribute("aria-label", `Distortion over rate of ${betas.length} models; the chosen one is ${words}.`);
    const found = await drawn(i);
    if (now !== i) return;
    shown = found;
    rows.redraw();
  }

  const { node: says, say } = announcer();
  const bar = slider("Weight β", { min: 0, max: betas.length - 1, step: 1, value: now, show: i => `${betas[i]}`, change: go });

  // The curve: axes, the line of the lowest sum, the models; the tangent of slope -beta at the chosen one.
  const most = { rate: Math.max(...rates) * 1.2 + 2, low: Math.min(...distortions) - 15, high: Math.max(...distortions) + 25 };
  const inside = ({ width, height }) => ({ left: 38, right: width - 6, top: 12, bottom: height - 40 });
  const at = box => ({
    X: rate => box.left + (rate / most.rate) * (box.right - box.left),
    Y: distortion => box.bottom - ((distortion - most.low) / (most.high - most.low)) * (box.bottom - box.top),
  });
  const curve = canvas(width => Math.min(330, 0.98 * width), (context, size) => {
    const { muted, rule, indigo, orange, purple, paper, text, width, height } = size, box = inside(size), { X, Y } = at(box);
    const write = (words, x, y, colour, align = "center") => {
      Object.assign(context, { fillStyle: colour, strokeStyle: paper, lineWidth: 4, lineJoin: "round", textAlign: align });
      context.setLineDash([]);
      context.strokeText(words, x, y);
      context.fillText(words, x, y);
    };
    const line = (colour, wide, dash, ...points) => {
      Object.assign(context, { strokeStyle: colour, lineWidth: wide });
      context.setLineDash(dash);
      context.beginPath();
      for (const [rate, distortion] of points) context.lineTo(X(rate), Y(distortion));
      context.stroke();
    };
    for (let d = Math.ceil(most.low / 50) * 50; d < most.high; d += 50) { line(rule, 1, [], [0, d], [most.rate, d]); write(d, box.left - 6, Y(d) + 4, muted, "right"); }
    for (let r = 0; r < most.rate; r += 10) write(r, X(r), box.bottom + 17, muted);
    write("rate: KL, nats", (box.left + box.right) / 2, height - 5, muted);
    write("distortion: reconstruction, nats", box.left + 8, box.top + 9, muted, "left");
    write("slope −β", box.right, box.top + 36, orange, "right");
    write("equal negative ELBO", box.right, box.top + 56, purple, "right");
    context.save();
    context.beginPath();
    context.rect(box.left, box.top + 14, box.right - box.left, box.bottom - box.top - 14);
    context.clip();
    line(purple, 1.5, [5, 4], [0, best], [most.rate, best - most.rate]);
    const [rate, distortion] = [rates[now], distortions[now]], reach = 40 / Math.hypot(X(1) - X(0), betas[now] * (Y(0) - Y(1)));
    line(orange, 2, [], [rate - reach, distortion + reach * betas[now]], [rate + reach, distortion - reach * betas[now]]);
    context.restore();
    rates.forEach((rate, i) => write(`β ${betas[i]}`, X(rate) + 11, Y(distortions[i]) - 8, i === now ? text : muted, "left"));
    line(indigo, 1.5, [], ...rates.map((rate, i) => [rate, distortions[i]]));
    rates.forEach((rate, i) => {
      const [x, y, chosen] = [X(rate), Y(distortions[i]), i === now];
      context.beginPath();
      context.arc(x, y, chosen ? 7 : 4.5, 0, 7);
      Object.assign(context, { fillStyle: chosen ? indigo : paper, strokeStyle: indigo, lineWidth: 1.5 });
      context.fill();
      context.stroke();
    });
  }, { role: "img" });
  curve.node.addEventListener("click", event => {
    const area = curve.node.getBoundingClientRect(), { X, Y } = at(inside(area));
    const far = rates.map((rate, i) => Math.hypot(X(rate) - event.clientX + area.left, Y(distortions[i]) - event.clientY + area.top));
    go(far.indexOf(Math.min(...far)));
  });

  // Test digits, what comes back of them, and what is drawn from the prior: always the same digits and codes.
  const rows = canvas(width => 4 * (width / COLUMNS) + 3 * 24, (context, { width, ...colours }) => {
    const size = width / COLUMNS;
    let y = 0;
    for (const [title, values] of [["test digits", images], ["reconstructions", shown?.reconstructions ?? []], ["samples from the prior", shown?.samples ?? []]]) {
      Object.assign(context, { fillStyle: colours.muted, textAlign: "left" });
      context.fillText(title, 0, y + 15);
      values.forEach((image, i) => picture(context, image, SIDE, (i % COLUMNS) * size + 1, y + 22 + Math.floor(i / COLUMNS) * size, size - 2, colours));
      y += 24 + size;
    }
  }, { role: "img", "aria-label": "Six test digits, their reconstructions, and twelve samples, by the chosen model." });

  place.append(bar.node, element("div", { className: "beta-both" }, curve.node, rows.node), says);
  for (const sign of ["pointerenter", "focusin"]) place.addEventListener(sign, () => betas.forEach((_, i) => drawn(i)), { once: true });
  await go(now);
}
