// The bound where log p(x) is known: q(z|x) of a linear decoder with one cause, held by hand. Chapter 2.
import { announcer, button, canvas, element, number, slider, still } from "./canvas.js";
import { curve, density, frame, handles, held, legend, scale } from "./bell.js";
import { read } from "./load.js";
import { clamp, rowsOf, sum } from "./matrix.js";

// KL(N(m0, s0^2) || N(m1, s1^2)), Eq. (2.14) in one dimension.
export const klNormals = (m0, s0, m1, s1) => ((s0 / s1) ** 2 + ((m1 - m0) / s1) ** 2 - 1) / 2 + Math.log(s1 / s0);

// All that chapter 2 says of an observation and a normal q, in nats. The gap knows nothing of the evidence, nor the evidence of q.
export function terms({ W: { data: W }, b: { data: b }, sigma: { data: [sigma] } }, x, mu, std) {
  const square = sum(W.map(w => w * w)), precision = square + sigma ** 2; // of the posterior, times sigma^2
  const mean = sum(W.map((w, d) => w * (x[d] - b[d]))) / precision, width = sigma / Math.sqrt(precision); // Eq. (2.12)
  const error = z => sum(W.map((w, d) => (x[d] - b[d] - w * z) ** 2));
  const logNormal = e => -e / (2 * sigma ** 2) - W.length * Math.log(sigma * Math.sqrt(2 * Math.PI));
  const reconstruction = logNormal(error(mu) + square * std ** 2), kl = klNormals(mu, std, 0, 1); // Eq. (2.15)
  return {
    posterior: { mu: mean, std: width },
    evidence: logNormal(error(mean)) - mean ** 2 / 2 + Math.log(width), // log p(x), Eq. (2.13)
    reconstruction, kl, elbo: reconstruction - kl, // Eq. (2.9)
    gap: klNormals(mu, std, mean, width), // the rest of Eq. (2.8)
  };
}

const LOW = -20, MU = [-2.5, 2.5], STD = [0.25, 1.4]; // nats at the left end of the bars; how far q goes
const ROWS = [["evidence", "log p(x)", "--color-foreground-primary"], ["elbo", "ELBO", "--indigo"], ["gap", "+ gap, KL to the posterior", "--orange"],
  ["reconstruction", "reconstruction, E log p(x|z)", "--green"], ["kl", "− KL to the prior", "--purple"]];

export const frameOf = width => frame({ left: 8, right: width - 8, top: 12, bottom: 170, from: -4, to: 4, high: 1.7 });

export async function mount(place, { data }) {
  const file = await read(`${data}bound.safetensors`), observed = rowsOf(file.x);
  const q = { mu: -0.6, std: 0.6 };
  let x = observed[0], now;

  const track = (...marks) => element("span", { className: "bound-track" }, ...marks);
  const rows = ROWS.map(([name, label, colour]) => {
    const bar = element("i"), value = element("b"), properties = { className: "bound-row", style: `--colour: var(${colour})` };
    return { name, bar, value, node: element("div", properties, element("span", { text: label }), track(bar), value) };
  });
  const at = nats => 100 * clamp(1 - nats / LOW, 0, 1);
  const ticks = [-15, -10, -5, 0].map(n => element("small", { text: n ? number(n, 0) : "0 nats", style: `left: ${at(n)}%` }));
  const below = element("div", { className: "bound-row bound-scale", "aria-hidden": "true" }, element("span"), track(...ticks), element("b"));
  const bars = element("div", { className: "bound-bars" }, ...rows.map(row => row.node), below);

  const picture = canvas(194, (context, { width, text, muted, paper, rule, indigo }) => {
    const where = frameOf(width), { posterior } = now;
    scale(context, where, [-3, -2, -1, 0, 1, 2, 3], "z", { muted, rule });
    curve(context, z => density(z, 0, 1), where, muted, { dash: [5, 4] });
    curve(context, z => density(z, posterior.mu, posterior.std), where, text);
    curve(context, z => density(z, q.mu, q.std), where, indigo, { width: 2.5, fill: 0.14 });
    handles(context, q, where, indigo, paper);
  }, { role: "application", "aria-label": "q over z: arrow keys to the left and right move its mean, up and down its width" });
  held(picture.node, () => frameOf(picture.node.clientWidth), () => q, move);

  const [mean, width] = [["Mean of q", MU, "mu"], ["Width of q", STD, "std"]].map(([label, [min, max], name]) =>
    slider(label, { min, max, step: 0.01, value: q[name], show: v => number(v, 2), change: value => move(name === "mu" ? value : q.mu, name === "std" ? value : q.std) }));
  const select = element("select", { className: "explorable-select", onchange: () => { x = observed[select.value]; move(q.mu, q.std); } },
    ...observed.map((x, n) => element("option", { value: n, text: `(${Array.from(x, v => number(v)).join(", ")})` })));
  const says = announcer();

  function set(mu, std) {
    Object.assign(q, { mu: clamp(mu, ...MU), std: clamp(std, ...STD) });
    [mean.value, width.value] = [q.mu, q.std];
    now = terms(file, x, q.mu, q.std);
    const round = value => Math.round(value * 100) / 100, [elbo, evidence, reconstruction] = [now.elbo, now.evidence, now.reconstruction].map(round);
    const shown = { elbo, evidence, reconstruction, gap: evidence - elbo, kl: reconstruction - elbo }; // so that what is shown adds up
    const from = { ...now, gap: now.elbo, kl: now.elbo }, to = { gap: now.evidence, kl: now.reconstruction }; // nats; others end at 0
    for (const { name, bar, value } of rows) {
      const left = at(from[name]);
      Object.assign(bar.style, { left: `${left}%`, width: `${at(to[name] ?? 0) - left}%` });
      bar.classList.toggle("is-cut", from[name] < LOW);
      value.textContent = number(shown[name], 2);
    }
    bars.style.setProperty("--evidence", `${at(now.evidence)}%`);
    says.say(`ELBO ${number(elbo, 2)} + gap ${number(shown.gap, 2)} = log p(x) ${number(evidence, 2)} nats`);
    picture.redraw();
  }

  let flight;
  function move(mu, std) { cancelAnimationFrame(flight); set(mu, std); }

  function jump() {
    const { mu, std } = now.posterior, from = { ...q }, begin = performance.now();
    cancelAnimationFrame(flight);
    const step = time => {
      const share = still() ? 1 : clamp((time - begin) / 700, 0, 1), s = share * share * (3 - 2 * share);
      set(from.mu + s * (mu - from.mu), from.std + s * (std - from.std));
      if (share < 1) flight = requestAnimationFrame(step);
    };
    step(begin);
  }

  place.append(
    legend(["prior p(z)", "--color-foreground-muted", "is-dashed"], ["posterior p(z|x)", "--color-foreground-primary"], ["q(z|x): drag it", "--indigo"]),
    picture.node, bars, element("div", { className: "explorable-pair" }, mean.node, width.node),
    element("div", { className: "explorable-row" },
      element("label", { className: "explorable-choice" }, element("span", { text: "x" }), select), button("Jump to the posterior", jump)),
    says.node);
  set(q.mu, q.std);
}
