// What the figures draw with: elements, canvases as sharp as the screen, colours of the page, pointers and keys.

// element("label", { className: "x", text: "Mean" }, child, ...)
export function element(tag, { text, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) name in made ? (made[name] = value) : made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export const button = (text, onclick) => element("button", { type: "button", className: "explorable-button", text, onclick });

// A labelled slider; `show` gives the words for its value. `slider.value` is a number.
export function slider(label, { min, max, step, value, show = v => number(v), change }) {
  const input = element("input", { type: "range", min, max, step, "aria-label": label }), output = element("output", { "aria-hidden": "true" });
  const tell = () => { output.textContent = show(+input.value); input.setAttribute("aria-valuetext", show(+input.value)); };
  input.value = value;
  input.addEventListener("input", () => { tell(); change(+input.value); });
  tell();
  return {
    node: element("label", { className: "explorable-slider" }, element("span", { text: label }), input, output),
    get value() { return +input.value; },
    set value(v) { input.value = v; tell(); },
  };
}

// A number as it is shown, with a minus sign, and never a zero below zero.
export function number(value, digits = 1) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && +text ? `\u2212${text}` : text;
}

// One line that a screen reader speaks when it has been still for a moment.
export function announcer() {
  const node = element("p", { className: "explorable-says", role: "status", "aria-live": "polite" });
  let timer;
  return { node, say(text) { clearTimeout(timer); timer = setTimeout(() => { node.textContent = text; }, 400); } };
}

// The page's colours and its font: the same until the theme changes, and then every canvas is drawn again.
const names = { text: "--color-foreground-primary", muted: "--color-foreground-muted", paper: "--color-background-primary",
  rule: "--rule", tint: "--tint", indigo: "--indigo", orange: "--orange", green: "--green", purple: "--purple", sans: "--sans" };
const drawn = [];
let theme;
function colours() {
  if (!theme) {
    const style = getComputedStyle(document.body);
    theme = Object.fromEntries(Object.entries(names).map(([name, variable]) => [name, style.getPropertyValue(variable).trim()]));
  }
  return theme;
}
function forget() {
  theme = null;
  for (const redraw of drawn) redraw();
}
new MutationObserver(forget).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", forget);

export const aDigit = digit => (digit === 8 ? "an 8" : `a ${digit}`);
export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
export const narrow = () => matchMedia("(max-width: 38em)").matches; // the stylesheet's one breakpoint

// A canvas as wide as its place. `draw(context, { width, height, ...colours })` is called, once a frame at most, when `redraw` asks,
// and when the size or the theme changes; it draws in CSS pixels. `height` is a number or a function of the width.
export function canvas(height, draw, properties = {}) {
  const node = element("canvas", { className: "explorable-canvas", ...properties }), context = node.getContext("2d");
  let waiting = false, width = 0, tall;
  const paint = () => {
    waiting = false;
    if (!width) return;
    const asked = typeof height === "function" ? height(width) : height, ratio = devicePixelRatio || 1, { sans, ...view } = colours();
    if (tall !== asked) node.style.height = `${tall = asked}px`;
    if (node.width !== Math.round(width * ratio) || node.height !== Math.round(tall * ratio)) Object.assign(node, { width: Math.round(width * ratio), height: Math.round(tall * ratio) });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, tall);
    context.save(); // nothing that one drawing sets is left for the next
    context.font = `13px ${sans}`;
    draw(context, { width, height: tall, ...view });
    context.restore();
  };
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };
  new ResizeObserver(([{ contentRect }]) => { width = Math.round(contentRect.width); redraw(); }).observe(node);
  drawn.push(redraw);
  return { node, redraw };
}

// `move(x, y, event, first)` in CSS pixels from the canvas's corner while a mouse, a finger or a pen is down; `up` at the end.
export function dragged(node, move, up = () => {}) {
  const at = (event, first) => { const box = node.getBoundingClientRect(); move(event.clientX - box.left, event.clientY - box.top, event, first); };
  node.style.touchAction = "none";
  const on = (kind, act) => node.addEventListener(kind, event => { if (event.isPrimary) act(event); }); // a second finger is not meant
  on("pointerdown", event => { if (event.button === 0) { node.setPointerCapture(event.pointerId); at(event, true); } });
  on("pointermove", event => { if (node.hasPointerCapture(event.pointerId)) at(event, false); });
  for (const end of ["pointerup", "pointercancel"]) on(end, event => { if (node.hasPointerCapture(event.pointerId)) { node.releasePointerCapture(event.pointerId); up(event); } });
}

// Arrow keys: `move(dx, dy, event)` in steps of -1, 0, 1 (up is -1).
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
export function arrows(node, move) {
  node.tabIndex = 0;
  node.addEventListener("keydown", event => {
    if (!(event.key in ARROWS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // the site's own arrow keys turn pages
    move(...ARROWS[event.key], event);
  });
}

// A line through points [x, y], and a dot, with a ring of another colour if it has one.
export function line(context, points, { colour, width = 1, dash = [] }) {
  Object.assign(context, { strokeStyle: colour, lineWidth: width });
  context.setLineDash(dash);
  context.beginPath();
  for (const point of points) context.lineTo(...point);
  context.stroke();
  context.setLineDash([]);
}
export function dot(context, x, y, radius, { colour, ring, width = 2 }) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  Object.assign(context, { fillStyle: colour }).fill();
  if (ring) Object.assign(context, { strokeStyle: ring, lineWidth: width }).stroke();
}

// A picture of side x side grey values (1 is ink) into a square of the canvas, ink in the colour of text on paper.
const scratch = document.createElement("canvas");
export function picture(context, values, side, x, y, size, { text, paper }) {
  const [ink, ground] = [rgb(text), rgb(paper)], image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = ground[c] + (ink[c] - ground[c]) * values[i];
    image.data[4 * i + 3] = 255;
  }
  Object.assign(scratch, { width: side, height: side });
  scratch.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = size % side !== 0;
  context.drawImage(scratch, x, y, size, size);
}

const known = new Map();
export function rgb(colour) {
  if (!known.has(colour)) {
    const probe = element("canvas", { width: 1, height: 1 }).getContext("2d");
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    known.set(colour, [...probe.getImageData(0, 0, 1, 1).data.slice(0, 3)]);
  }
  return known.get(colour);
}

// The ten colours of digits, as in the package, each mixed with that of text until it stands out from paper: 3 to 1, as WCAG asks of graphics.
const DIGITS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const linear = c => (c <= 10 ? c / 3295 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const light = colour => colour.reduce((sum, c, i) => sum + linear(c) * [0.2126, 0.7152, 0.0722][i], 0.05);
const mixes = new Map();
export function digitColours({ text, paper }) {
  const theme = `${text} ${paper}`;
  if (mixes.has(theme)) return mixes.get(theme);
  const [ink, ground] = [rgb(text), rgb(paper)];
  const told = colour => Math.max(light(colour) / light(ground), light(ground) / light(colour)) >= 3;
  const mixed = (colour, part) => { const made = colour.map((c, i) => Math.round(c + part * (ink[i] - c))); return part >= 1 || told(made) ? made : mixed(colour, part + 0.05); };
  mixes.set(theme, DIGITS.map(colour => `rgb(${mixed(rgb(colour), 0)})`));
  return mixes.get(theme);
}
