// The latent plane of the model with two dimensions: a point in the hand, the decoder's picture of it, and a walk from digit to digit.
import { aDigit, announcer, arrows, button, canvas, digitColours, dot, dragged, element, line, number, picture, slider } from "./canvas.js";
import { read } from "./load.js";
import { PRIOR_95, SIDE, clamp, decode, mapPoints, range } from "./matrix.js";

const STEPS = 7; // of the walk
const REACH = 22, NEAR = 12; // pixels from which a handle is taken, and a digit is meant

// z(t) = (1 - t) a + t b, Eq. (7.7), at one t and at equal steps.
export const interpolated = (a, b, t) => a.map((v, i) => (1 - t) * v + t * b[i]);
export const walk = (a, b, steps) => range(steps).map(i => interpolated(a, b, i / (steps - 1)));

// The test digit of the map nearest to z; those of a class, the most typical first (nearest to the median).
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
export const nearest = (digits, z) => digits.reduce((best, digit) => (distance(digit.z, z) < distance(best.z, z) ? digit : best));
export function typical(digits, label) {
  const found = digits.filter(digit => digit.label === label), middle = found.length >> 1;
  const centre = [0, 1].map(i => found.map(({ z }) => z[i]).sort((a, b) => a - b)[middle]);
  return found.sort((a, b) => distance(a.z, centre) - distance(b.z, centre));
}

const pair = z => `(${z.map(v => number(v, 2)).join(", ")})`;
const KEYS = "Arrow keys move the point, A or B, whichever is chosen; with Shift in larger steps.";

export async function mount(place, { data }) {
  const [model, map] = await Promise.all(["mnist-2d-decoder", "map"].map(name => read(`${data}${name}.safetensors`)));
  const all = mapPoints(map), classes = range(10).map(k => typical(all, k)), presses = Array(10).fill(0);
  const extent = 1.04 * Math.max(...all.flatMap(({ z }) => z.map(Math.abs)));
  const at = { A: classes[7][0].z, B: classes[0][0].z };
  at.point = interpolated(at.A, at.B, 0.5);
  let hand = "point", walking = true, grip; // what is moved; whether the point goes with the line; where it was taken
  const toPlane = (x, y, size) => [2 * x / size - 1, 1 - 2 * y / size].map(v => v * extent);
  const toPixels = ([x, y], size) => [(1 + x / extent) * size / 2, (1 - y / extent) * size / 2];

  // The map in two layers: the digits, drawn again for another size or theme only, and what moves.
  const ground = canvas(width => width, (context, { width, rule, muted, ...ink }) => {
    const colour = digitColours(ink), middle = width / 2, round = range(121).map(i => [Math.sin, Math.cos].map(f => PRIOR_95 * f(i * Math.PI / 60)));
    chips.forEach((chip, k) => { chip.style.color = colour[k]; });
    line(context, [[0, middle], [width, middle]], { colour: rule });
    line(context, [[middle, 0], [middle, width]], { colour: rule });
    line(context, round.map(z => toPixels(z, width)), { colour: muted, width: 1.5, dash: [4, 4] });
    line(context, [[0, width - 8], [22, width - 8]], { colour: muted, width: 1.5, dash: [4, 4] });
    write(context, 600, width < 320 ? 8.5 : 9.5);
    for (const { label, z } of all) {
      context.fillStyle = colour[label];
      context.fillText(label, ...toPixels(z, width));
    }
    write(context, 400, 12);
    context.fillStyle = muted;
    context.fillText("z\u2081", width - 9, middle + 11);
    context.fillText("z\u2082", middle + 12, 9);
    context.textAlign = "left";
    context.fillText("95% of the prior", 28, width - 8);
  }, { "aria-hidden": "true" });
  const top = canvas(width => width, (context, { width, text, paper, indigo }) => {
    line(context, [at.A, at.B].map(z => toPixels(z, width)), { colour: text, width: 1.5 });
    write(context, 700, 13);
    for (const name of ["A", "B", "point"]) {
      const [x, y] = toPixels(at[name], width), full = name === hand || name === "point";
      if (name === hand) dot(context, x, y, name === "point" ? 12 : 15, { colour: paper, ring: indigo, width: 1.5 });
      dot(context, x, y, name === "point" ? 9 : 12, { colour: full ? indigo : paper, ring: full ? paper : text, width: 1.5 });
      context.fillStyle = full ? paper : text;
      if (name !== "point") context.fillText(name, x, y + 1);
    }
  }, { className: "explorable-canvas plane-top", role: "application", "aria-label": `The latent plane with a thousand test digits. ${KEYS}` });

  const draw = (context, z, x, size, ink) => picture(context, decode(model, z), SIDE, x, 0, size, ink);
  const image = canvas(width => width, (context, { width, ...ink }) => draw(context, at.point, 0, width, ink),
    { className: "explorable-canvas plane-image", role: "img", "aria-label": "The decoder\u2019s picture of the point" });
  const strip = canvas(width => Math.floor(width / STEPS) - 4, (context, { width, height, ...ink }) =>
    walk(at.A, at.B, STEPS).forEach((z, i) => draw(context, z, Math.round((i + 0.5) * width / STEPS - height / 2), height, ink)),
  { className: "explorable-canvas plane-strip", role: "img", "aria-label": "Seven pictures on the line from A to B" });
  const says = announcer(), where = element("p", { className: "plane-where" });
  const hands = ["point", "A", "B"].map(name => button(name === "point" ? "the point" : name, () => choose(name)));
  const chips = range(10).map(k => button(k, () => put(hand, classes[k][presses[k]++ % classes[k].length].z)));
  const t = slider("from A to B", { min: 0, max: 1, step: 0.01, value: 0.5, show: v => `t = ${v.toFixed(2)}`, change: onLine });
  t.node.classList.add("plane-walk");

  function choose(name) {
    hand = name;
    ["point", "A", "B"].forEach((key, i) => hands[i].setAttribute("aria-pressed", key === hand));
    chips.forEach((chip, k) => chip.setAttribute("aria-label", `Move ${hand === "point" ? "the point" : hand} to ${aDigit(k)}, another one at each press`));
    top.redraw();
  }
  function put(name, z) {
    at[name] = z.map(v => clamp(v, -extent, extent));
    if (name === "point") walking = false;
    else if (walking) at.point = interpolated(at.A, at.B, t.value);
    show(name);
  }
  function onLine(value) {
    choose("point");
    at.point = interpolated(at.A, at.B, value);
    walking = true;
    show("point");
  }
  function show(name) {
    for (const layer of name === "point" ? [top, image] : [top, image, strip]) layer.redraw();
    where.textContent = `z = ${pair(at.point)}`;
    says.say(`${name === "point" ? "z" : name} = ${pair(at[name])}: the nearest test digit is ${aDigit(nearest(all, at[name]).label)}.`);
  }

  // A handle is dragged from where it was taken. A press elsewhere brings what is chosen there, A and B onto the digit that is meant;
  // a finger's press only when it has not turned out to scroll the page.
  dragged(top.node, (x, y, { pointerType }, first) => {
    const size = top.node.clientWidth, far = z => distance(toPixels(z, size), [x, y]);
    if (!first) {
      if (grip && (grip.moving ||= distance([x, y], grip.from) > 3)) put(hand, toPlane(x + grip.left, y + grip.above, size));
      return;
    }
    const taken = ["point", "A", "B"].filter(name => far(at[name]) < REACH).sort((a, b) => far(at[a]) - far(at[b]))[0];
    grip = null;
    if (!taken && pointerType === "touch") return;
    if (taken) choose(taken);
    else bring(x, y);
    const [u, v] = taken ? toPixels(at[taken], size) : [x, y];
    grip = { from: [x, y], left: u - x, above: v - y };
  });
  function bring(x, y) {
    const size = top.node.clientWidth, place = toPlane(x, y, size), digit = nearest(all, place).z;
    put(hand, hand !== "point" && distance(toPixels(digit, size), [x, y]) < NEAR ? digit : place);
  }
  top.node.style.touchAction = "manipulation";
  top.node.addEventListener("touchstart", event => { if (grip) event.preventDefault(); }, { passive: false }); // after pointerdown
  top.node.addEventListener("click", ({ offsetX, offsetY }) => { if (!grip) bring(offsetX, offsetY); });
  arrows(top.node, (dx, dy, { shiftKey }) => put(hand, [dx, -dy].map((d, i) => at[hand][i] + d * (shiftKey ? 0.5 : 0.1))));
  strip.node.addEventListener("click", ({ offsetX }) => { t.value = Math.floor(offsetX / strip.node.clientWidth * STEPS) / (STEPS - 1); onLine(t.value); });

  place.classList.add("plane");
  place.append(
    element("div", { className: "plane-map" }, ground.node, top.node),
    element("div", { className: "plane-side" },
      element("div", {}, image.node, where),
      element("div", { className: "plane-hands" },
        element("span", { text: "Move" }), element("div", { className: "plane-names" }, ...hands),
        element("span", { text: "to a" }), element("div", { className: "plane-chips" }, ...chips))),
    element("div", { className: "plane-line" }, strip.node, t.node), says.node);
  choose("point");
  show("point");
  says.say("Drag the point, A or B. A press on the map or on a digit moves what is chosen.");
}

function write(context, weight, size) {
  context.font = `${weight} ${size}px ${getComputedStyle(document.body).getPropertyValue("--sans")}`;
  Object.assign(context, { textAlign: "center", textBaseline: "middle" });
}
