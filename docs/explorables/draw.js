// Draw a digit: the encoder's posterior of it, five draws of z decoded, and the terms of the loss; by mnist-2d or mnist-fast.
import { announcer, arrows, button, canvas, digitColours, dragged, element, number, picture } from "./canvas.js";
import { drawLatents, drawLoss, drawMap, drawPosterior, drawSamples } from "./draw-pictures.js";
import { centred } from "./ink.js";
import { read } from "./load.js";
import { SIDE, clamp, decodeLogits, encode, klOfEach, mapPoints, normals, range, reconstruction, rowsOf, sample, sigmoid, sum } from "./matrix.js";

const NAMES = ["zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines"];
const APART = 0.5; // pixels between two points of a line

// What there is to show of an image: q(z|x), a draw of z for each row of noise, its picture and -log p(x|z), the KL of each latent.
export function look(encoder, decoder, x, noise) {
  const q = encode(encoder, x), z = noise.map(epsilon => sample(q, epsilon)), logits = z.map(v => decodeLogits(decoder, v));
  return { x, q, z, pictures: logits.map(a => a.map(sigmoid)), costs: logits.map(a => reconstruction(a, x)), kl: klOfEach(q) };
}

export function terms({ costs, kl }) {
  const [cost, price] = [sum(costs) / costs.length, sum(kl)];
  return { reconstruction: cost, kl: price, loss: cost + price };
}

// The mean of each class of the map's digits, and the class whose mean is nearest to z.
export const classMeans = points => range(10).map(digit => [0, 1].map(i => { const of = points.filter(({ label }) => label === digit).map(({ z }) => z[i]); return sum(of) / of.length; }));
export function nearestClass(means, z) {
  const far = means.map(mean => Math.hypot(mean[0] - z[0], mean[1] - z[1]));
  return far.indexOf(Math.min(...far));
}

// ---- the figure

const title = (...parts) => element("p", { className: "draw-title" }, ...parts);

export async function mount(place, { data, figure }) {
  const name = figure.dataset.model ?? "mnist-2d", flat = name === "mnist-2d";
  const file = stem => read(`${data}${stem}.safetensors`);
  const [start, digits, map] = await Promise.all([file(`draw-${name}`), file("digits"), flat ? file("map") : null]);
  const points = flat ? mapPoints(map) : [], means = flat ? classMeans(points) : [], latents = start.mu.data.length, { digit: known, average } = start.facts;
  const images = rowsOf(digits.images).map(row => row.map(v => v / 255)), examples = range(10).map(digit => images[digits.labels.data.indexOf(digit)]);

  // What is shown: a test digit or lines of the pen. Until the weights are here, nothing is known but what the file says of one digit.
  let digit = known, lines = [], noise = rowsOf(start.noise), model, shown;
  const q = { mu: start.mu.data, logVar: start.log_var.data };
  const first = { x: examples[known], q, z: noise.map(e => sample(q, e)), kl: klOfEach(q), costs: [...start.costs.data], pictures: rowsOf(start.pictures).map(row => row.map(v => v / 255)) };
  const says = announcer(), values = {};
  let waits, frame;

  function update(words) {
    cancelAnimationFrame(frame);
    const x = digit === null ? centred(lines) : examples[digit];
    shown = model ? look(...model, x, noise) : digit === known ? first : { x };
    for (const drawn of [pad, posterior, samples, loss]) drawn.redraw();
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === digit));
    const total = shown.q && terms(shown);
    for (const [key, node] of Object.entries(values)) node.textContent = total ? number(total[key]) : "\u2026";
    says.say(words ?? (model ? told(total) : waits));
  }
  function told({ loss, kl }) {
    const cost = `negative ELBO ${number(loss)} nats, of which KL ${number(kl)}.`, most = shown.kl.indexOf(Math.max(...shown.kl));
    if (digit === null && !lines.length) return `Nothing is drawn: ${cost}`;
    return flat ? `Nearest to the ${NAMES[nearestClass(means, shown.q.mu)]}: ${cost}` : `Latent ${most + 1} pays most of the KL, ${number(shown.kl[most])}; ${cost}`;
  }
  function soon() { // at most once a frame, however fast the pointer is
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => update());
  }

  let asked;
  const fetched = () => asked ??= Promise.all([file(`${name}-encoder`), file(`${name}-decoder`)]).then(both => { model = both; update(); });
  function touched() {
    if (!asked) waits = "The model is being fetched.";
    fetched().catch(() => {
      asked = null;
      says.say(waits = "The model could not be fetched: touch the figure again to try once more.");
    });
  }

  // The pen: a pointer, or the keys.
  const hint = element("span", { className: "draw-hint", text: "draw here", "aria-hidden": "true" });
  const pen = { x: SIDE / 2, y: SIDE / 4, down: false, seen: false };
  function ink(x, y, first) {
    if (digit !== null) [digit, lines] = [null, []];
    hint.hidden = true;
    if (first) lines.push([]);
    [pen.x, pen.y] = [x, y].map(v => clamp(v, 0, SIDE));
    const line = lines.at(-1), last = line.at(-1);
    if (!last || Math.hypot(pen.x - last[0], pen.y - last[1]) >= APART) line.push([pen.x, pen.y]);
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
    pad.redraw();
    soon();
  });
  arrows(pad.node, (dx, dy) => {
    const [x, y] = [pen.x + dx, pen.y + dy].map(v => clamp(v, 1, SIDE - 1));
    Object.assign(pen, { x, y, seen: true });
    if (pen.down) { ink(x, y); return update(); }
    pad.redraw();
    says.say(`Pen lifted, at column ${Math.round(x)}, row ${Math.round(y)}.`);
  });
  function show(example) { // a test digit, or null: an empty pad
    [digit, lines, pen.down, hint.hidden] = [example, [], false, example !== null];
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
  const height = width => (flat ? Math.min(Math.round(0.93 * width), 322) : 150), ground = flat ? [canvas(height, (c, view) => {
    drawMap(c, view, points);
    digitColours(view).forEach((colour, i) => buttons[i].style.setProperty("--class", colour));
  }, { "aria-hidden": "true" })] : [];
  const posterior = canvas(height, (c, view) => (flat ? drawPosterior(c, view, shown, points) : drawLatents(c, view, shown, latents)),
    { role: "img", "aria-label": flat ? "The latent plane with a thousand test digits, and through a lens the ellipse of the posterior with five draws in it" : "Mean and standard deviation of each latent, five draws of it, and its KL" });
  const samples = canvas(width => Math.floor((width - 40) / 6) + 20, (c, view) => drawSamples(c, view, shown, noise.length), { role: "img", "aria-label": "The image in 28 times 28 pixels, and what five draws of z decode to, each above its reconstruction term" });
  const loss = canvas(38, (c, view) => drawLoss(c, view, shown.q && terms(shown), average), { role: "img", "aria-label": `The terms as a bar; an average test digit ends at ${number(average)} nats` });
  const again = button("Draw z again", () => { noise = noise.map(() => normals(latents)); update(); });
  const term = (key, words) => element("span", { className: `draw-term draw-${key}` }, values[key] = element("b"), element("span", { text: words }));

  place.classList.add("draw", flat ? "draw-flat" : "draw-wide");
  place.append(
    element("div", { className: "draw-pad" }, title(element("b", { text: "Draw a digit" }), button("Clear", () => show(null))),
      element("div", { className: "draw-layers" }, pad.node, hint),
      element("div", { className: "draw-digits", role: "group", "aria-label": "Ten test digits" }, ...buttons)),
    element("div", { className: "draw-posterior" }, title(element("b", { text: flat ? "Its posterior, on the map of test digits" : `Its posterior: ${latents} means ± sd (band: the prior)` })), element("div", { className: "draw-layers" }, ...ground.map(layer => layer.node), posterior.node)),
    element("div", { className: "draw-samples" }, title(element("b", { text: "Five draws of z, decoded" }), again), samples.node),
    element("div", { className: "draw-loss" }, title(element("b", { text: "The loss in nats, mean of the five draws" })),
      element("p", { className: "draw-terms" }, term("reconstruction", "reconstruction"), "+", term("kl", "KL"), "=", term("loss", "negative ELBO")), loss.node),
    says.node);
  for (const kind of ["pointerdown", "focusin"]) place.addEventListener(kind, touched);
  pad.node.addEventListener("pointerenter", touched);
  update("Draw, or take one of ten test digits: all of this follows.");
  if (flat) await fetched();
}
