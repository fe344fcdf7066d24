// Bits back, push by push: the coder's stack while one image goes onto it, and comes off again.
import { history, imageOf, priorTable, STEPS } from "./ans.js";
import { read } from "./load.js";
import { announcer, button, canvas, element, slider, still } from "./canvas.js";
import { range } from "./matrix.js";

const MOVES = [["z off", "q(z|x)"], ["x on", "p(x|z)"], ["z on", "p(z)"], ["z off", "p(z)"], ["x off", "p(x|z)"], ["z on", "q(z|x)"]];
const signed = bits => (bits < 0 ? "−" : "+") + Math.abs(bits).toFixed(1);

export async function mount(place, { data }) {
  const digits = await read(`${data}bits-back.safetensors`), { seeds, labels, elbo } = digits.facts, prior = priorTable();
  let which, run, step = 0, playing = 0, stepAt;
  const last = () => run.steps.length - 1, sumAt = s => run.steps[s].bits - run.steps[0].bits, cost = s => run.steps[s].bits - run.steps[s - 1].bits;
  const nextEnd = () => run.ends.find(end => end > step) ?? 0;

  const told = ["Step", "Sum", "Stack"].map(() => element("span")), lines = element("div", { className: "bits-lines" });
  ["Step", "Sum", "Stack"].forEach((name, i) => lines.append(element("span", { text: name }), told[i]));
  const { node: says, say } = announcer(), view = canvas(width => (width < 540 ? 430 : 300), draw, { role: "img" });
  view.node.addEventListener("click", event => go(stepAt(event.clientX - view.node.getBoundingClientRect().left)));
  const bar = slider("Step", { min: 0, max: 1, step: 1, value: 0, show: v => `${v}`, change: go }), play = button("Play", () => (playing ? stop() : start()));
  const choices = labels.map((label, i) => element("button", { type: "button", className: "explorable-button", text: label, "aria-label": `Digit ${label}`, onclick: () => choose(i) }));

  function choose(i) {
    which = i;
    run = history(imageOf(digits, i), prior, seeds);
    choices.forEach((node, k) => node.setAttribute("aria-pressed", k === i));
    bar.node.querySelector("input").max = last();
    go(0);
  }
  function go(to) { stop(); show(to); say(`Step ${step} of ${last()}: ${told[0].textContent}; sum ${signed(sumAt(step))} bits.`); }
  function show(to) {
    step = bar.value = Math.min(Math.max(Math.round(to), 0), last());
    const { move, at, value, head, words, borrowed } = run.steps[step], [verb, law] = MOVES[move];
    const what = verb[0] === "x" ? `pixel ${at} (${value ? "ink" : "paper"})` : `z${at + 1} = ${(value / STEPS).toFixed(3).replace("-", "−")}`;
    told[0].textContent = step ? `${what} ${verb.slice(2)} by ${law}: ${signed(cost(step))} bits` : "random bits are waiting";
    told[1].textContent = `${signed(sumAt(step))} bits; negative ELBO of this digit ${elbo[which].toFixed(1)} bits`;
    const count = n => `${n} ${n === 1 ? "word" : "words"}`, parts = { head: `head ${head.toLocaleString("en")}`, word: `${count(words)} of 32 bits`, seed: `${count(borrowed)} borrowed` };
    told[2].replaceChildren(...Object.entries(parts).map(([name, text]) => element("span", { className: `bits-${name}`, text })));
    view.node.setAttribute("aria-label", `The height of the stack over the steps of one digit: ${signed(sumAt(step))} bits after step ${step} of ${last()}.`);
    view.redraw();
  }
  function start() {
    if (step === last()) show(0);
    if (still()) return go(nextEnd());
    play.textContent = "Pause";
    let before = performance.now(), position = step;
    const frame = now => {
      position += ((now - before) / 1000) * (MOVES[run.steps[Math.min(step + 1, last())].move][0][0] === "x" ? 260 : 10);
      before = now;
      if (Math.floor(position) > step) show(Math.floor(position));
      if (step === last()) go(step);
      else playing = requestAnimationFrame(frame);
    };
    playing = requestAnimationFrame(frame);
  }
  function stop() { cancelAnimationFrame(playing); playing = 0; play.textContent = "Play"; }

  // Step s of the way back stands where the way there had its step 2 * half - s: the stack is the same.
  function draw(context, { width, height, text, muted, rule, indigo, orange, green, purple, paper }) {
    const [Z, before, half] = run.ends, N = before - Z, back = step > half, p = back ? 2 * half - step : step, narrow = width < 540;
    const fill = (colour, alpha, x, y, w, h) => { context.globalAlpha = alpha; context.fillStyle = colour; context.fillRect(x, y, w, h); context.globalAlpha = 1; };
    const write = (words, x, y, colour = muted, align = "left") => { context.fillStyle = colour; context.textAlign = align; context.fillText(words, x, y); };
    const line = (colour, dash, ...points) => {
      context.strokeStyle = colour; context.setLineDash(dash); context.beginPath();
      points.forEach(point => context.lineTo(...point)); context.stroke(); context.setLineDash([]);
    };
    // The image: ink where it is in hand, its bits in orange where it is on the stack.
    const dot = narrow ? 5 : 7, picture = 28 * dot;
    write("image x", 0, 14);
    fill(rule, 0.35, 0, 22, picture, picture);
    for (let d = 0; d < N; d++) {
      const put = Z + N - d, x = (d % 28) * dot, y = 22 + Math.floor(d / 28) * dot;
      if (p >= put) fill(orange, 0.08 + 0.92 * Math.min(1, cost(put) / 4), x, y, dot, dot);
      else if (run.x[d]) fill(text, 1, x, y, dot, dot);
    }
    // The numbers of the code: a bar from the middle where they are in hand, filled where they are on the stack.
    const [left, top, columns, cell, tall] = narrow ? [picture + 20, 22, 5, (width - picture - 20) / 5, 33] : [0, picture + 46, 10, picture / 10, 25];
    write("code z", left, top - 8);
    for (let j = 0; j < Z; j++) {
      const x = left + (j % columns) * cell, y = top + Math.floor(j / columns) * tall, on = p >= before + Z - j, value = run.steps[j + 1].value / STEPS / 2.5;
      fill(on ? green : rule, on ? 0.7 : 0.35, x, y, cell - 2, tall - 2);
      if (p > j && !on) fill(text, 1, x + cell * 0.3, y + tall / 2 - 1, cell * 0.4, Math.max(-1, Math.min(1, -value)) * (tall / 2 - 2));
    }
    // The height of the stack over the steps; each move has its part of the width.
    const heights = run.steps.slice(0, half + 1).map(s => s.bits), low = Math.min(...heights) - 72, high = Math.max(elbo[which], ...heights) + 32;
    const x0 = narrow ? 38 : picture + 66, x1 = width - 62, y0 = narrow ? 228 : 42, y1 = height - 8, parts = narrow ? [0, 0.27, 0.73, 1] : [0, 0.22, 0.78, 1], ends = [0, ...run.ends.slice(0, 3)];
    const X = s => { const m = s <= Z ? 0 : s <= before ? 1 : 2; return x0 + (x1 - x0) * (parts[m] + ((s - ends[m]) / (ends[m + 1] - ends[m])) * (parts[m + 1] - parts[m])); };
    const Y = bits => y1 - ((bits - low) / (high - low)) * (y1 - y0);
    stepAt = x => {
      const share = Math.min(Math.max((x - x0) / (x1 - x0), 0), 1), m = share <= parts[1] ? 0 : share <= parts[2] ? 1 : 2;
      const s = Math.round(ends[m] + ((share - parts[m]) / (parts[m + 1] - parts[m])) * (ends[m + 1] - ends[m]));
      return back ? 2 * half - s : s;
    };
    for (let bits = Math.ceil(low / 50) * 50; bits < high; bits += 50) { write(`${bits}`.replace("-", "−"), x0 - 6, Y(bits) + 4, muted, "right"); line(rule, [], [x0, Y(bits)], [x1, Y(bits)]); }
    line(purple, [5, 4], [x0, Y(elbo[which])], [x1, Y(elbo[which])]);
    write("negative ELBO", x0 + 4, Y(elbo[which]) - 5, purple);
    [orange, indigo, green].forEach((colour, m) => {
      const middle = X((ends[m] + ends[m + 1]) / 2), [verb, law] = MOVES[back ? 5 - m : m], active = step > 0 && run.steps[step].move === (back ? 5 - m : m);
      write(active ? (back ? `← ${verb}` : `${verb} →`) : verb, middle, y0 - 24, active ? text : muted, "center");
      write(law, middle, y0 - 8, active ? text : muted, "center");
      if (m) line(rule, [], [X(ends[m]), Y(high - 32)], [X(ends[m]), y1]);
      const points = range(ends[m + 1] - ends[m] + 1).map(i => [X(ends[m] + i), Y(heights[ends[m] + i])]);
      context.lineWidth = 2;
      context.globalAlpha = 0.25; line(colour, [], ...points); context.globalAlpha = 1;
      line(colour, [], ...points.slice(0, Math.max(0, p - ends[m] + 1)));
      context.lineWidth = 1;
    });
    context.fillStyle = text; context.beginPath(); context.arc(X(p), Y(heights[p]), 5, 0, 7); context.fill();
    // The stack itself: the head, the words under it, the random bits below.
    const { words, borrowed, bits } = run.steps[step], [b0, b1] = [width - 44, width - 6], zone = (colour, alpha, from, to) => fill(colour, alpha, b0, Y(to) + 1, b1 - b0, Math.min(y1, Y(from)) - Y(to) - 1);
    write("stack", (b0 + b1) / 2, y0 - 24, muted, "center");
    for (let k = borrowed; -32 * k > low; k++) zone(purple, 0.35, -32 * (k + 1), -32 * k);
    for (let k = 0; k < words; k++) zone(indigo, 0.75, 32 * (k - borrowed), 32 * (k + 1 - borrowed));
    zone(orange, 1, 32 * (words - borrowed), bits);
    line(text, [], [X(p), Y(bits)], [b1, Y(bits)]);
  }

  place.append(element("div", { className: "explorable-row" }, element("span", { text: "Digit" }), ...choices), view.node, bar.node,
    element("div", { className: "explorable-row" }, button("Back", () => go(step - 1)), button("Next", () => go(step + 1)), play, button("Next move", () => go(nextEnd()))), lines, says);
  choose(0);
}
