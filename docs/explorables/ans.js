// The coder of vae_nbdev.compression with one lane, in the same whole numbers: tables, stack, and the steps of one image.
import { range, rowsOf } from "./matrix.js";

export const WIDTH = 8, STEPS = 2 ** WIDTH, REACH = 16 * STEPS, ONE = 2 ** 24, WORD = 2n ** 32n;

// e**x by operations whose last bit IEEE 754 prescribes, in the package's order: the same tables on every machine.
const long = new BigInt64Array(1), double = new Float64Array(long.buffer);
export function exactExp(x) {
  const n = Math.round(x * 1.4426950408889634), r = x - n * 0.6931471803691238 - n * 1.9082149292705877e-10;
  let p = 1;
  for (let k = 13; k > 0; k--) p = p * r * (1 / k) + 1;
  long[0] = BigInt(n + 1023) << 52n; // the bits of 2**n
  return p * double[0];
}

// Probabilities as whole numbers, at least 1 for each symbol, added up from 0 to ONE.
export function cumulative(mass) {
  let total = 0;
  const below = mass.map(m => (total += m));
  return [0, ...below.map((b, i) => Math.floor((b / total) * (ONE - mass.length)) + i + 1)];
}

// A table: the cumulative frequencies of neighbouring whole numbers, and the first of these.
const bell = (half, sigma, first) => ({ first, below: cumulative(range(2 * half + 1).map(i => (i - half) / STEPS / sigma).map(t => exactExp(-0.5 * t * t))) });
export const priorTable = () => bell(REACH, 1, -REACH);
export function posteriorTable(scale, first) {
  const sigma = exactExp((scale / 16 - WIDTH - 2) * 0.6931471805599453);
  return bell(Math.ceil(6 * STEPS * sigma) + 1, sigma, first);
}
export const coinTable = cell => ({ first: 0, below: cumulative([1, exactExp(cell / 32)]) });

// A head of 64 bits on words of 32; below the lowest word lie the seeds, random bits.
export class Stack {
  constructor(seeds) {
    Object.assign(this, { seeds, words: [], borrowed: 0 });
    this.head = this.take() + WORD;
  }
  take() { return this.words.length ? this.words.pop() : BigInt(this.seeds[this.borrowed++]); }
  push({ below, first }, value) { // Eq. (23.2)
    const start = BigInt(below[value - first]), freq = BigInt(below[value - first + 1]) - start;
    if (this.head >= freq << 40n) { this.words.push(this.head % WORD); this.head /= WORD; }
    this.head = ((this.head / freq) << 24n) + (this.head % freq) + start;
  }
  pop({ below, first }) { // Eq. (23.3)
    const u = Number(this.head % BigInt(ONE));
    let k = 0, end = below.length - 1;
    while (end - k > 1) { const middle = (k + end) >> 1; if (below[middle] <= u) k = middle; else end = middle; }
    this.head = BigInt(below[k + 1] - below[k]) * (this.head >> 24n) + BigInt(u - below[k]);
    if (this.head < WORD) this.head = this.head * WORD + this.take();
    return k + first;
  }
  get bits() { return 32 * (this.words.length - this.borrowed) + Math.log2(Number(this.head)); }
}

// Image i of the data: its pixels, q(z|x), and p(x|z) of the code that comes off first.
export function imageOf(data, i) {
  const row = name => [...rowsOf(data[name])[i]], scales = row("scales"), coins = new Map(), coin = c => coins.get(c) ?? coins.set(c, coinTable(c)).get(c);
  return { pixels: row("pixels"), q: row("first").map((first, j) => posteriorTable(scales[j], first)), coins: row("cells").map(coin) };
}

// Every step: the start; then z off, x on, z on; then the inverse of each, from the last to the first.
export function history({ pixels, q, coins }, prior, seeds) {
  const stack = new Stack(seeds), steps = [], N = pixels.length, Z = q.length, z = [], code = [], x = [];
  const note = (move, at, value) => steps.push({ move, at, value, head: stack.head, words: stack.words.length, borrowed: stack.borrowed, bits: stack.bits });
  const put = (move, table, at, value) => { stack.push(table, value); note(move, at, value); };
  note(0);
  for (let j = 0; j < Z; j++) note(0, j, z[j] = stack.pop(q[j]));
  for (let d = N; d--;) put(1, coins[d], d, pixels[d]);
  for (let j = Z; j--;) put(2, prior, j, z[j]);
  const packed = [...stack.words];
  for (let j = 0; j < Z; j++) note(3, j, code[j] = stack.pop(prior));
  for (let d = 0; d < N; d++) note(4, d, x[d] = stack.pop(coins[d]));
  for (let j = Z; j--;) put(5, q[j], j, code[j]);
  return { steps, x, packed, ends: [Z, Z + N, 2 * Z + N, 3 * Z + N, 3 * Z + 2 * N, 4 * Z + 2 * N] };
}
