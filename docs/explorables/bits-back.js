// Bits back, push by push: the coder's stack while one image goes onto it, and comes off again.
import { history, imageOf, priorTable, STEPS } from "./ans.js";
import { MOVES, drawCode, drawHeights, drawImage, drawStack, layout } from "./bits-pictures.js";
import { announcer, button, canvas, element, narrow, number, slider, still } from "./canvas.js";
import { read } from "./load.js";
import { clamp } from "./matrix.js";

const SPEED = { z: 10, x: 260 }; // steps in a second
const signed = bits => (bits < 0 ? "" : "+") + number(bits);
const count = n => `${n} ${n === 1 ? "word" : "words"}`;

export async function mount(place, { data }) {
  const digits = await read(`${data}bits-back.safetensors`), { seeds, labels, elbo } = digits.facts, prior = priorTable();
  let which, run, step = 0, playing = 0, where;
  const last = () => run.steps.length - 1, nextEnd = () => run.ends.find(end => end > step) ?? last();
  const growth = s => signed(run.steps[s].bits - run.steps[0].bits);

  const { node: says, say } = announcer();
  const bar = slider("Step", { min: 0, max: 1, step: 1, value: 0, show: v => `${v}`, change: go });
  const back = button("Back", () => go(step - 1)), next = button("Next", () => go(step + 1)), nextMove = button("Next move", () => go(nextEnd()));
  const play = button("Play", () => (playing ? stop() : start()));
  const choices = labels.map((label, i) => Object.assign(button(label, () => choose(i)), { ariaLabel: `Digit ${label}` }));
  const view = canvas(() => (narrow() ? 430 : 300), (context, size) => {
    where = layout(size, run, step, elbo[which]);
    drawImage(context, size, where, run);
    drawCode(context, size, where, run);
    drawHeights(context, size, where, run, step, elbo[which]);
    drawStack(context, size, where, run.steps[step]);
  }, { role: "img" });
  view.node.addEventListener("click", event => go(where.stepAt(event.clientX - view.node.getBoundingClientRect().left)));

  function choose(i) {
    which = i;
    run = history(imageOf(digits, i), prior, seeds);
    choices.forEach((node, k) => node.setAttribute("aria-pressed", k === i));
    bar.node.querySelector("input").max = last();
    go(0);
  }
  function go(to) {
    stop();
    show(to);
    say(`Step ${step} of ${last()}: ${told[0].textContent}; growth ${growth(step)} bits.`);
  }

  const told = ["Step", "Growth", "Stack"].map(() => element("span"));
  const lines = element("div", { className: "bits-lines" }, ...["Step", "Growth", "Stack"].flatMap((name, i) => [element("span", { text: name }), told[i]]));
  function what(s) {
    const { move, at, value, bits } = run.steps[s], [thing, way, law] = MOVES[move];
    const symbol = thing === "x" ? `pixel ${at} (${value ? "ink" : "paper"})` : `z${at + 1} = ${number(value / STEPS, 3)}`;
    return `${symbol} ${way} by ${law}: ${signed(bits - run.steps[s - 1].bits)} bits`;
  }
  function show(to) {
    step = bar.value = clamp(Math.round(to), 0, last());
    const { head, words, borrowed } = run.steps[step];
    const parts = { head: `head ${head.toLocaleString("en")}`, word: `${count(words)} of 32 bits`, seed: `${count(borrowed)} borrowed` };
    told[0].textContent = step ? what(step) : "random bits are waiting";
    told[1].textContent = `${growth(step)} bits; negative ELBO of this digit ${number(elbo[which])} bits`;
    told[2].replaceChildren(...Object.entries(parts).map(([name, text]) => element("span", { className: `bits-${name}`, text })));
    back.disabled = step === 0;
    next.disabled = nextMove.disabled = step === last();
    view.node.setAttribute("aria-label", `The height of the stack over the steps of one digit: ${growth(step)} bits after step ${step} of ${last()}.`);
    view.redraw();
  }

  function start() {
    if (step === last()) show(0);
    if (still()) return go(nextEnd());
    play.textContent = "Pause";
    let before = performance.now(), position = step;
    const frame = now => {
      const [thing] = MOVES[run.steps[Math.min(step + 1, last())].move];
      position += ((now - before) / 1000) * SPEED[thing];
      before = now;
      if (Math.floor(position) > step) show(Math.floor(position));
      if (step === last()) go(step);
      else playing = requestAnimationFrame(frame);
    };
    playing = requestAnimationFrame(frame);
  }
  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    play.textContent = "Play";
  }

  place.append(element("div", { className: "explorable-row bits-digits" }, element("span", { text: "Digit" }), ...choices), view.node, bar.node,
    element("div", { className: "explorable-row" }, back, next, play, nextMove), lines, says);
  choose(0);
}
