// Draw a digit: the encoder's posterior of it, five draws of z decoded, and the terms of the loss; by mnist-2d or mnist-fast.
import { announcer, arrows, button, canvas, digitColours, dragged, element, picture } from "./canvas.js";
import { drawLatents, drawLoss, drawMap, drawPosterior, drawSamples } from "./draw-pictures.js";
import { centred } from "./ink.js";
import { read } from "./load.js";
import { SIDE, decodeLogits, encode, klOfEach, normals, range, reconstruction, sample, sigmoid, sum } from "./matrix.js";

const NAMES = ["zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines"];
const DRAWS = 5; // samples of z

// What there is to show of an image: q(z|x), a draw of z for each row of noise, its picture and -log p(x|z), the KL of each latent.
export function look(encoder, decoder, x, noise) {
  const q = encode(encoder, x), z = noise.map(epsilon => sample(q, epsilon)), logits = z.map(v => decodeLogits(decoder, v));
  return { x, q, z, pictures: logits.map(a => a.map(sigmoid)), costs: logits.map(a => reconstruction(a, x)), kl: klOfEach(q) };
}

export function terms({ costs, kl }) {
  const [cost, price] = [sum(costs) / costs.length, sum(kl)];
  return { reconstruction: cost, kl: price, loss: cost + price };
}

// The digits of the map, and the class whose mean among them is nearest to z.
export const onMap = ({ mu, labels }) => [...labels.data].map((label, i) => ({ label, z: [mu.data[2 * i], mu.data[2 * i + 1]] }));
export function nearest(points, z) {
  const mean = (digit, i) => { const of = points.filter(({ label }) => label === digit).map(point => point.z[i]); return sum(of) / of.length; };
  const far = range(10).map(digit => Math.hypot(mean(digit, 0) - z[0], mean(digit, 1) - z[1]));
  return far.indexOf(Math.min(...far));
}

// ---- the figure

const title = (...parts) => element("p", { className: "draw-title" }, ...parts);

export async function mount(place, { data, figure }) {
  const name = figure.dataset.model ?? "mnist-2d", flat = name === "mnist-2d";
  const file = stem => read(`${data}${stem}.safetensors`);
  const [start, digits, map] = await Promise.all([file(`draw-${name}`), file("digits"), flat ? file("map") : null]), points = flat ? onMap(map) : [];
  const latents = start.mu.data.length, { data: labels } = digits.labels, average = start.facts.average;
  const examples = range(10).map(digit => labels.indexOf(digit)).map(row => Float64Array.from(digits.images.data.subarray(row * SIDE * SIDE, (row + 1) * SIDE * SIDE), v => v / 255));
  const rows = ({ shape: [n, width], data: values }) => range(n).map(i => Float64Array.from(values.subarray(i * width, (i + 1) * width)));

  // What is shown: a test digit or lines of the pen; until the weights are here, what the file says of the first digit.
  let digit = start.facts.digit, lines = [], noise = rows(start.noise), model;
  let shown = { x: examples[digit], q: { mu: start.mu.data, logVar: start.log_var.data }, costs: [...start.costs.data] };
  shown = { ...shown, z: noise.map(e => sample(shown.q, e)), kl: klOfEach(shown.q), pictures: rows(start.pictures).map(row => row.map(v => v / 255)) };
  const says = announcer(), values = {};

  function update(words) {
    const x = digit === null ? centred(lines) : examples[digit];
    shown = model ? look(...model, x, noise) : { ...shown, x };
    for (const drawn of [pad, posterior, samples, loss]) drawn.redraw();
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === digit));
    const total = terms(shown);
    for (const [key, node] of Object.entries(values)) node.textContent = total[key].toFixed(1);
    const most = shown.kl.indexOf(Math.max(...shown.kl));
    const where = flat ? `Nearest to the ${NAMES[nearest(points, shown.q.mu)]}.` : `Latent ${most + 1} pays most of the KL, ${shown.kl[most].toFixed(1)}.`;
    says.say(words ?? (model ? `${where} Negative ELBO ${total.loss.toFixed(1)} nats, of which KL ${total.kl.toFixed(1)}.` : "The model is being fetched."));
  }

  let asked;
  const fetched = () => asked ??= Promise.all([file(`${name}-encoder`), file(`${name}-decoder`)]).then(both => { model = both; update(); });

  // The pen: a pointer, or the keys.
  const hint = element("span", { className: "draw-hint", text: "draw here", "aria-hidden": "true" });
  const pen = { x: SIDE / 2, y: SIDE / 4, down: false, seen: false };
  function ink(x, y, first) {
    if (digit !== null) [digit, lines] = [null, []];
    hint.hidden = true;
    if (first) lines.push([]);
    lines.at(-1).push([pen.x, pen.y] = [x, y].map(v => Math.min(Math.max(v, 0), SIDE)));
  }
  const pad = canvas(width => width, (c, { width, ...colours }) => {
    const unit = width / SIDE;
    if (digit !== null) picture(c, shown.x, SIDE, 0, 0, width, colours);
    Object.assign(c, { lineWidth: 2.3 * unit, lineCap: "round", lineJoin: "round", strokeStyle: colours.text });
    for (const line of lines) {
      c.beginPath();
      [line[0], ...line].forEach(([x, y]) => c.lineTo(x * unit, y * unit));
      c.stroke();
    }
    if (!pen.seen) return;
    Object.assign(c, { lineWidth: 2, strokeStyle: colours.orange, fillStyle: colours.orange });
    c.beginPath();
    c.arc(pen.x * unit, pen.y * unit, unit, 0, 7);
    if (pen.down) c.fill();
    c.stroke();
  }, { role: "application", "aria-label": "A place to draw a digit with mouse, finger or pen. By keys: arrows move the pen, Space puts it down or lifts it, Delete clears." });
  dragged(pad.node, (x, y, event, first) => {
    const unit = pad.node.clientWidth / SIDE;
    Object.assign(pen, { down: false, seen: false });
    ink(x / unit, y / unit, first);
    update();
  });
  arrows(pad.node, (dx, dy) => {
    const [x, y] = [pen.x + dx, pen.y + dy].map(v => Math.min(Math.max(v, 1), SIDE - 1));
    Object.assign(pen, { x, y, seen: true });
    if (pen.down) ink(x, y);
    update(pen.down ? undefined : `Pen lifted, at column ${Math.round(x)}, row ${Math.round(y)}.`);
  });
  function show(example) { // a test digit, or null: an empty pad
    [digit, lines, pen.down] = [example, [], false];
    update();
  }
  pad.node.addEventListener("keydown", event => {
    if (event.key === " ") {
      Object.assign(pen, { down: !pen.down, seen: true });
      if (pen.down) ink(pen.x, pen.y, true);
      update(pen.down ? "The pen is down." : "The pen is lifted.");
    } else if (event.key === "Delete" || event.key === "Backspace") show(null);
    else return;
    event.preventDefault();
  });
  pad.node.addEventListener("blur", () => { Object.assign(pen, { down: false, seen: false }); pad.redraw(); });

  const buttons = examples.map((pixels, i) => {
    const drawn = canvas(width => width, (c, { width, ...colours }) => picture(c, pixels, SIDE, 0, 0, width, colours));
    return element("button", { type: "button", className: "draw-digit", "aria-label": `Test digit ${i}`, onclick: () => show(i) }, drawn.node);
  });
  const height = width => (flat ? Math.min(Math.round(0.93 * width), 322) : 150), still = points.length ? [canvas(height, (c, view) => {
    drawMap(c, view, shown, points);
    digitColours(view).forEach((colour, i) => buttons[i].style.setProperty("--class", colour));
  }, { "aria-hidden": "true" })] : [];
  const posterior = canvas(height, (c, view) => (flat ? drawPosterior(c, view, shown, points) : drawLatents(c, view, shown)),
    { role: "img", "aria-label": flat ? "The latent plane with a thousand test digits, and through a lens the ellipse of the posterior with five draws in it" : "Mean and standard deviation of each latent, five draws of it, and its KL" });
  const samples = canvas(width => Math.floor((width - 40) / 6) + 20, (c, view) => drawSamples(c, view, shown), { role: "img", "aria-label": "The image in 28 times 28 pixels, and what five draws of z decode to, each above its reconstruction term" });
  const loss = canvas(38, (c, view) => drawLoss(c, view, terms(shown), average), { role: "img", "aria-label": `The terms as a bar; an average test digit ends at ${average.toFixed(1)} nats` });
  const again = button("Draw z again", () => { noise = noise.map(() => normals(latents)); update(); });
  const term = (key, words) => element("span", { className: `draw-term draw-${key}` }, values[key] = element("b"), element("span", { text: words }));

  place.classList.add("draw", flat ? "draw-flat" : "draw-wide");
  place.append(
    element("div", { className: "draw-pad" }, title(element("b", { text: "Draw a digit" }), button("Clear", () => show(null))),
      element("div", { className: "draw-layers" }, pad.node, hint),
      element("div", { className: "draw-digits", role: "group", "aria-label": "Ten test digits" }, ...buttons)),
    element("div", { className: "draw-posterior" }, title(element("b", { text: flat ? "Its posterior, on the map of test digits" : `Its posterior: ${latents} means ± sd (band: the prior)` })), element("div", { className: "draw-layers" }, ...still.map(layer => layer.node), posterior.node)),
    element("div", { className: "draw-samples" }, title(element("b", { text: "Five draws of z, decoded" }), again), samples.node),
    element("div", { className: "draw-loss" }, title(element("b", { text: "The loss in nats, mean of the five draws" })),
      element("p", { className: "draw-terms" }, term("reconstruction", "reconstruction"), "+", term("kl", "KL"), "=", term("loss", "negative ELBO")), loss.node),
    says.node);
  for (const kind of ["pointerover", "pointerdown", "focusin"]) place.addEventListener(kind, () => fetched().catch(() => says.say("The model could not be fetched.")), { once: true });
  update("Draw, or take one of ten test digits: all of this follows.");
  if (flat) await fetched();
}
