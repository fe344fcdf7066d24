// Two estimators of one gradient, from the same noise: mu and sigma are moved by hand. Chapter 3.
import { announcer, button, canvas, dot, element, line, narrow, number, slider } from "./canvas.js";
import { curve, density, frame, handles, held, legend, scale } from "./bell.js";
import { read } from "./load.js";
import { clamp, normals, range, sum } from "./matrix.js";

export const f = (z, constant = 0) => z * Math.sin(z) + constant;
export const slope = z => Math.sin(z) + z * Math.cos(z);

// The gradient of E[f(z)] by mu and by log sigma^2, known since E[z sin z] = exp(-sigma^2 / 2) (mu sin mu + sigma^2 cos mu).
export function exact(mu, std) {
  const v = std ** 2, shrunk = Math.exp(-v / 2), sine = Math.sin(mu), cosine = Math.cos(mu);
  return { mu: shrunk * (sine + mu * cosine - v * sine), logVar: shrunk * v * (cosine - (mu * sine + v * cosine) / 2) };
}

// Of each draw z = mu + sigma epsilon, what the two estimators say: Eqs. (3.7) and (3.8); (3.9) and (3.10).
export function estimates(epsilon, mu, std, constant = 0) {
  const z = epsilon.map(e => mu + std * e), of = value => epsilon.map((e, i) => value(z[i], e));
  return {
    z,
    pathwise: { mu: of(slope), logVar: of((z, e) => slope(z) * std * e / 2) },
    score: { mu: of((z, e) => f(z, constant) * e / std), logVar: of((z, e) => f(z, constant) * (e * e - 1) / 2) },
  };
}

export function moments(values) {
  const mean = sum(values) / values.length;
  return { mean, std: Math.sqrt(sum(values.map(v => (v - mean) ** 2)) / (values.length - 1)) };
}

// How far a scale goes that shows all values: 10, 20, 40, ...
export const reach = values => 10 * 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(...values.map(Math.abs)) / 10)));

const MU = [-2, 2], STD = [0.3, 1], COUNTS = [5, 10, 20, 50, 100, 200, 500], ARROWS = 20;
const ESTIMATORS = [["pathwise", "pathwise", "indigo", "asks for the slope of f"], ["score", "score function", "orange", "asks for the height of f"]];
const PARAMETERS = { mu: "μ", logVar: "log σ²" };
const MEANING = { mu: "arrow: the step that a draw asks for", logVar: "arrow outwards: a draw asks for a wider q" };
const words = value => number(value, 2);
const jitter = range(500).map(i => (i * 0.618) % 1); // heights of the dots, evenly spread

function arrow(context, x, y, length, colour, width) {
  const head = Math.min(2 * width + 2, Math.abs(length)) * Math.sign(length), tip = [x + length, y], back = x + length - head;
  line(context, [[x, y], tip], { colour, width });
  line(context, [[back, y - 0.6 * head], tip, [back, y + 0.6 * head]], { colour, width });
}

export async function mount(place, { data }) {
  const { epsilon } = await read(`${data}gradients.safetensors`);
  const q = { mu: 0.5, std: 0.7 };
  let noise = epsilon.data, constant = 0, count = 100, by = "mu", now;

  // Two frames, beside each other or one above the other.
  const tallOf = () => (narrow() ? 176 : 216);
  const framesOf = width => ESTIMATORS.map((_, k) => {
    const tall = tallOf(), [size, left, top] = narrow() ? [width, 0, k * tall] : [width / 2 - 8, k * (width / 2 + 8), 0];
    return { left: left + 4, right: left + size - 4, top: top + 24, bottom: top + tall - 24, from: -4, to: 4 };
  });
  const bellOf = box => frame({ ...box, top: box.bottom - 48, high: 1.4 });
  const heightOf = () => (narrow() ? 2 : 1) * tallOf();
  const picture = canvas(heightOf, (context, { width, text, muted, paper, rule, green, ...colours }) => framesOf(width).forEach((box, k) => {
    const [name, label, colour, wants] = ESTIMATORS[k], where = frame({ ...box, low: -4, high: 6 }), bell = bellOf(box), step = (where.x(1) - where.x(0)) * 0.6;
    context.save();
    context.beginPath();
    context.rect(box.left - 4, box.top - 24, box.right - box.left + 8, box.bottom - box.top + 48);
    context.clip();
    Object.assign(context, { fillStyle: colours[colour], textAlign: "left", textBaseline: "top" });
    context.fillText(`${label}: ${wants}`, box.left - 4, box.top - 22);
    scale(context, where, [-3, -2, -1, 0, 1, 2, 3], "z", { muted, rule });
    curve(context, z => density(z, q.mu, q.std), bell, green, { width: 1.5, fill: 0.14 });
    curve(context, z => f(z, constant), where, muted, { width: 1.5 });
    const { z } = now.all, steps = now.all[name][by], height = i => where.y(f(z[i], constant));
    // Downhill: to where a draw would take the mean, or, away from the mean, the width.
    const outwards = i => (by === "mu" ? 1 : Math.sign(z[i] - q.mu)), from = by === "mu" ? 0 : q.std;
    for (let i = 0; i < Math.min(count, ARROWS); i++) arrow(context, where.x(z[i]), height(i), -outwards(i) * steps[i] * step, colours[colour], 1.5);
    for (let i = 0; i < Math.min(count, ARROWS); i++) dot(context, where.x(z[i]), height(i), 2.5, { colour: text });
    arrow(context, where.x(q.mu + from), bell.y(density(from, 0, q.std)) - 15, -now.exact[by] * step, text, 3);
    handles(context, q, bell, green, paper);
    context.restore();
  }), { role: "application", "aria-label": "q under f(z): arrow keys to the left and right move its mean, up and down its width" });
  held(picture.node, (x, y) => {
    const width = picture.node.clientWidth, [first, second] = framesOf(width);
    return bellOf((narrow() ? y > tallOf() : x > width / 2) ? second : first);
  }, () => q, set);

  const scatter = canvas(166, (context, { width, text, muted, rule, ...colours }) => {
    const far = reach(ESTIMATORS.flatMap(([name]) => [...now.all[name][by]]));
    const where = frame({ left: 6, right: width - 6, top: 0, bottom: 126, from: -far, to: far, high: 1 });
    scale(context, where, [-0.8, -0.4, 0, 0.4, 0.8].map(share => share * far), "", { muted, rule });
    context.textAlign = "center";
    context.fillText("gradient of one draw", where.x(0), 148);
    ESTIMATORS.forEach(([name, label, colour], k) => {
      const top = 63 * k, { mean, std } = now.moments[name], tint = colours[colour];
      Object.assign(context, { fillStyle: tint, textAlign: "left", textBaseline: "top", globalAlpha: 1 });
      context.fillText(`${label}: mean ${words(mean)}, std of a draw ${words(std)}`, 0, top + 2);
      context.globalAlpha = clamp(8 / Math.sqrt(count), 0.3, 0.8);
      now.all[name][by].forEach((g, i) => dot(context, where.x(g), top + 23 + 24 * jitter[i], 2, { colour: tint }));
      context.globalAlpha = 1;
      line(context, [mean - std, mean + std].map(g => [where.x(g), top + 54]), { colour: tint, width: 3 });
      dot(context, where.x(mean), top + 54, 5, { colour: tint });
      line(context, [20, 62].map(y => [where.x(now.exact[by]), top + y]), { colour: text, width: 1.5 });
    });
  }, { role: "img" });

  const own = (label, [min, max], step, value, change) => slider(label, { min, max, step, value, show: words, change });
  const mean = own("Mean of q", MU, 0.01, q.mu, value => set(value, q.std)), width = own("Width of q", STD, 0.01, q.std, value => set(q.mu, value));
  const added = own("Added to f", [0, 4], 0.25, constant, value => { constant = value; update(); });
  const draws = slider("Draws", { min: 0, max: COUNTS.length - 1, step: 1, value: COUNTS.indexOf(count),
    show: i => `${COUNTS[i]}`, change: i => { count = COUNTS[i]; update(); } });
  const choices = Object.entries(PARAMETERS).map(([name, symbol]) => button(`by ${symbol}`, () => { by = name; update(); }));
  const says = announcer();

  function set(mu, std) {
    Object.assign(q, { mu: clamp(mu, ...MU), std: clamp(std, ...STD) });
    [mean.value, width.value] = [q.mu, q.std];
    update();
  }

  function update() {
    const all = estimates(noise.slice(0, count), q.mu, q.std, constant);
    now = { all, exact: exact(q.mu, q.std), moments: Object.fromEntries(ESTIMATORS.map(([name]) => [name, moments(all[name][by])])) };
    choices.forEach((choice, k) => choice.setAttribute("aria-pressed", by === Object.keys(PARAMETERS)[k]));
    meaning.textContent = MEANING[by];
    const { pathwise, score } = now.moments, say = ({ mean, std }) => `mean ${words(mean)}, std of a draw ${words(std)}`;
    const told = `Gradient by ${PARAMETERS[by]}: exactly ${words(now.exact[by])}; pathwise: ${say(pathwise)}; score function: ${say(score)}.`;
    scatter.node.setAttribute("aria-label", told);
    says.say(told);
    picture.redraw();
    scatter.redraw();
  }

  const key = legend(["q(z): drag it", "--green"], ["f = z sin z + constant", "--color-foreground-muted"], ["exact", "--color-foreground-primary"], [MEANING[by]]);
  const meaning = key.lastChild;
  place.append(key, picture.node, scatter.node, element("div", { className: "explorable-pair" }, mean.node, width.node, added.node, draws.node),
    element("div", { className: "explorable-row" }, button("New noise ε", () => { noise = normals(noise.length); update(); }),
      element("span", { className: "explorable-choice" }, element("span", { text: "Gradient" }), ...choices)),
    says.node);
  update();
}
