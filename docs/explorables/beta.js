// One slider over models trained with different weights of the KL: what each draws, and where it lies on the curve.
import { read } from "./load.js";
import { announcer, canvas, dot, element, line, number, picture, slider } from "./canvas.js";
import { SIDE, decode, encode, range, rowsOf } from "./matrix.js";

const COLUMNS = 6;

// The picture that a model gives back of a digit: decoded from the posterior's mean.
export const reconstruct = (model, x) => decode(model, encode(model, x).mu);

export async function mount(place, { data }) {
  const { facts, digits, z } = await read(`${data}beta.safetensors`), images = rowsOf(digits), codes = rowsOf(z);
  const [betas, rates, distortions] = [facts.betas, facts.rates, facts.distortions].map(list => list.toReversed()); // to the right the rate grows
  const sums = rates.map((rate, i) => rate + distortions[i]), best = sums.indexOf(Math.min(...sums)), models = new Map();
  let now = best, shown; // the pictures of the model that is chosen, once they are there

  // A model is fetched when the slider first comes to it, or when the hand comes near; what failed can be tried again.
  function drawn(i) {
    if (!models.has(i)) {
      models.set(i, read(`${data}beta-${betas[i]}.safetensors`).then(model => ({
        reconstructions: images.map(x => reconstruct(model, x)), samples: codes.map(code => decode(model, code)),
      })));
      models.get(i).catch(() => models.delete(i));
    }
    return models.get(i);
  }
  function show(pictures) {
    shown = pictures;
    const made = shown ? "their reconstructions and twelve samples, by the chosen model" : "the pictures of the chosen model are not here yet";
    rows.node.setAttribute("aria-label", `Six test digits; ${made}.`);
    rows.redraw();
  }
  async function go(i) {
    now = bar.value = i;
    curve.redraw();
    show();
    const price = sums[i] - sums[best], words = `β ${betas[i]}: rate ${number(rates[i])} and distortion ${number(distortions[i])} are ${number(sums[i])} nats`;
    const sentence = `${words}, ${price < 0.05 ? "the lowest sum" : `${number(price)} more than at β ${betas[best]}`}.`;
    curve.node.setAttribute("aria-label", `Distortion over rate of ${betas.length} models; the chosen one is ${words}.`);
    say(`β ${betas[i]}: its model is being fetched.`); // spoken if it takes a while
    const pictures = await drawn(i).catch(() => {});
    if (now !== i) return;
    show(pictures);
    say(pictures ? sentence : `β ${betas[i]}: the model could not be fetched.`);
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
    const { muted, rule, indigo, orange, purple, paper, text, height } = size, box = inside(size), { X, Y } = at(box);
    const write = (words, x, y, colour, align = "center") => {
      Object.assign(context, { fillStyle: colour, strokeStyle: paper, lineWidth: 4, lineJoin: "round", textAlign: align });
      context.strokeText(words, x, y);
      context.fillText(words, x, y);
    };
    const path = (points, look) => line(context, points.map(([rate, distortion]) => [X(rate), Y(distortion)]), look);
    for (let d = Math.ceil(most.low / 50) * 50; d < most.high; d += 50) {
      path([[0, d], [most.rate, d]], { colour: rule });
      write(d, box.left - 6, Y(d) + 4, muted, "right");
    }
    for (let r = 0; r < most.rate; r += 10) write(r, X(r), box.bottom + 17, muted);
    write("rate: KL, nats", (box.left + box.right) / 2, height - 5, muted);
    write("distortion: reconstruction, nats", box.left + 8, box.top + 9, muted, "left");
    write("slope −β", box.right, box.top + 36, orange, "right");
    write("equal negative ELBO", box.right, box.top + 56, purple, "right");
    context.save();
    context.beginPath();
    context.rect(box.left, box.top + 14, box.right - box.left, box.bottom - box.top - 14);
    context.clip();
    path([[0, sums[best]], [most.rate, sums[best] - most.rate]], { colour: purple, width: 1.5, dash: [5, 4] });
    const [rate, distortion, beta] = [rates[now], distortions[now], betas[now]], reach = 40 / Math.hypot(X(1) - X(0), beta * (Y(0) - Y(1)));
    path([[rate - reach, distortion + reach * beta], [rate + reach, distortion - reach * beta]], { colour: orange, width: 2 });
    context.restore();
    rates.forEach((rate, i) => write(`β ${betas[i]}`, X(rate) + 11, Y(distortions[i]) - 8, i === now ? text : muted, "left"));
    path(rates.map((rate, i) => [rate, distortions[i]]), { colour: indigo, width: 1.5 });
    rates.forEach((rate, i) => dot(context, X(rate), Y(distortions[i]), i === now ? 7 : 4.5, { colour: i === now ? indigo : paper, ring: indigo, width: 1.5 }));
  }, { role: "img" });
  curve.node.addEventListener("click", event => {
    const area = curve.node.getBoundingClientRect(), { X, Y } = at(inside(area));
    const far = rates.map((rate, i) => Math.hypot(X(rate) - event.clientX + area.left, Y(distortions[i]) - event.clientY + area.top));
    go(far.indexOf(Math.min(...far)));
  });

  // Test digits, what comes back of them, and what is drawn from the prior: always the same digits and codes. A frame waits for each picture.
  const rows = canvas(width => 4 * (width / COLUMNS) + 3 * 24, (context, { width, ...colours }) => {
    const size = width / COLUMNS;
    let y = 0;
    const groups = [["test digits", 6, images], ["reconstructions", 6, shown?.reconstructions], ["samples from the prior", 12, shown?.samples]];
    for (const [title, count, values] of groups) {
      Object.assign(context, { fillStyle: colours.muted, strokeStyle: colours.rule, lineWidth: 1, textAlign: "left" });
      context.fillText(title, 0, y + 15);
      for (const i of range(count)) {
        const [left, top] = [(i % COLUMNS) * size + 1, y + 22 + Math.floor(i / COLUMNS) * size];
        if (values) picture(context, values[i], SIDE, left, top, size - 2, colours);
        else context.strokeRect(left + 0.5, top + 0.5, size - 3, size - 3);
      }
      y += 24 + size;
    }
  }, { role: "img" });

  place.append(bar.node, element("div", { className: "beta-both" }, curve.node, rows.node), says);
  for (const sign of ["pointerenter", "focusin"]) place.addEventListener(sign, () => betas.forEach((_, i) => drawn(i)), { once: true });
  await drawn(now); // without it the picture of the page stays
  go(now);
}
