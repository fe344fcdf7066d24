// A code of 20 numbers, moved along the principal axes of the posterior means, or along single latents: what each of them draws.
import { aDigit, announcer, button, canvas, element, number, picture, slider } from "./canvas.js";
import { read } from "./load.js";
import { SIDE, decode, range, rowsOf, sum } from "./matrix.js";

const SHOWN = 5, REACH = 4; // directions with a slider; as far as it goes, in standard deviations

// The directions of a family, that of most variance first: a unit vector, the standard deviation and the share of variance along it.
// "axes" are the principal axes; "latents" the single ones, whose variance is their activity (Burda et al., 2016).
export function directions(axes, family) {
  const n = axes.mean.data.length, total = sum([...axes.spread.data]);
  const made = (name, unit, variance) => ({ name, unit, std: Math.sqrt(variance), share: variance / total });
  const found = family === "axes"
    ? rowsOf(axes.directions).map((row, k) => made(`axis ${k + 1}`, [...row], axes.std.data[k] ** 2))
    : range(n).map(j => made(`latent ${j + 1}`, range(n).map(i => +(i === j)), axes.spread.data[j]));
  return found.sort((a, b) => b.share - a.share);
}

// Where a code is along a direction, in standard deviations from the mean; and the code that is elsewhere there, and nowhere else.
export const coordinate = (axes, z, { unit, std }) => sum(unit.map((u, i) => u * (z[i] - axes.mean.data[i]))) / std;
export function moved(axes, z, direction, to) {
  const step = (to - coordinate(axes, z, direction)) * direction.std;
  return z.map((v, i) => v + step * direction.unit[i]);
}

// The ink that another picture has elsewhere, as a share of the ink of the first.
export const inkMoved = (from, to) => sum([...from].map((v, i) => Math.abs(v - to[i]))) / 2 / sum([...from]);

const signed = v => `${+v.toFixed(1) > 0 ? "+" : ""}${number(v)} sd`;
const percent = share => `${number(100 * share)}%`;

export async function mount(place, { data }) {
  const [model, axes] = await Promise.all(["mnist-fast-decoder", "axes"].map(name => read(`${data}${name}.safetensors`)));
  const families = { axes: directions(axes, "axes"), latents: directions(axes, "latents") };
  const examples = rowsOf(axes.codes), codes = range(10).map(k => examples[k * examples.length / 10]); // the first of each class
  let digit = 3, z = codes[digit], family = "axes", chosen = 0, sliders = [];

  const square = (code, properties) => canvas(width => width, (context, { width, ...ink }) => picture(context, decode(model, code()), SIDE, 0, 0, width, ink), properties);
  const image = square(() => z, { role: "img", "aria-label": "The decoder\u2019s picture of the code" });
  const bars = canvas(110, drawBars, { role: "img" });
  const says = announcer(), list = element("div");
  const starts = codes.map((code, k) => element("button", { type: "button", className: "axes-start", "aria-label": `Start from ${aDigit(k)}`, onclick: () => { digit = k; back(); } },
    square(() => code).node));
  const toggles = Object.entries({ axes: "principal axes", latents: "single latents" }).map(([name, text]) => button(text, () => { family = name; chosen = 0; rows(); }));

  function rows() {
    toggles.forEach((toggle, i) => toggle.setAttribute("aria-pressed", Object.keys(families)[i] === family));
    sliders = families[family].slice(0, SHOWN).map((direction, k) => slider(direction.name,
      { min: -REACH, max: REACH, step: 0.1, value: coordinate(axes, z, direction), show: signed, change: value => move(k, value) }));
    list.replaceChildren(...sliders.map(({ node }) => node));
    say();
  }
  function move(k, value) {
    chosen = k;
    z = moved(axes, z, families[family][k], value);
    image.redraw();
    say();
  }
  function back() {
    z = codes[digit];
    sliders.forEach((slider, k) => { slider.value = coordinate(axes, z, families[family][k]); });
    starts.forEach((start, k) => start.setAttribute("aria-pressed", k === digit));
    image.redraw();
    say();
  }
  function say() {
    const all = families[family], { name, share } = all[chosen], ends = `from ${percent(all[0].share)} to ${percent(all.at(-1).share)}`;
    bars.node.setAttribute("aria-label", `Bars of the variance along all ${family === "axes" ? "principal axes" : "latents"}, ${ends}; ${name} has ${percent(share)}.`);
    bars.redraw();
    const ink = Math.round(100 * inkMoved(decode(model, codes[digit]), decode(model, z)));
    says.say(`${name}: ${signed(coordinate(axes, z, all[chosen]))}. Of the ink of the ${digit}, ${ink}% has moved.`);
  }
  // Share of variance of all 20 directions; those with a slider in colour, the one that is moved named.
  function drawBars(context, { width, height, text, muted, rule, indigo, orange }) {
    const all = families[family], floor = height - 18, tall = floor - 24, pitch = width / all.length;
    context.textAlign = "center";
    all.forEach(({ name, share }, k) => {
      const h = tall * share / Math.max(families.axes[0].share, families.latents[0].share);
      context.fillStyle = k === chosen ? orange : k < SHOWN ? indigo : rule;
      context.fillRect(k * pitch + 1.5, floor - h, pitch - 3, h);
      context.fillStyle = k < SHOWN ? text : muted;
      context.font = context.font.replace(/[\d.]+px/, "10px");
      context.fillText(name.split(" ")[1], (k + 0.5) * pitch, height - 5);
    });
    context.font = context.font.replace(/[\d.]+px/, "12px");
    context.textAlign = "left"; context.fillStyle = text;
    context.fillText(`${all[chosen].name}: ${percent(all[chosen].share)} of the variance of the codes`, 0, 12);
  }

  place.append(
    element("div", { className: "axes-starts", role: "group", "aria-label": "The digit to start from" }, ...starts),
    element("div", { className: "axes-main" },
      element("div", { className: "axes-shown" }, image.node, button("Back to the digit", back)),
      element("div", { className: "axes-moves" }, element("div", { className: "explorable-row" }, ...toggles), list)),
    bars.node, says.node);
  rows();
  back();
  says.say("Choose a digit, then move a slider: its code changes in that direction and in no other.");
}
