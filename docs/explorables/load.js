// Reads the data of a figure: a safetensors file, in which weights of 8 bits stand beside their scales.
const KINDS = { F64: Float64Array, F32: Float32Array, I32: Int32Array, I8: Int8Array, U8: Uint8Array };

// `{ facts, NAME: { shape, data } }` of the bytes of a file: length of the header, header, numbers.
export function parse(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: texts = {}, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  const found = { facts: Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, JSON.parse(text)])) };
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    if (!(dtype in KINDS)) throw new Error(`${name} has the type ${dtype}, which no figure reads`);
    found[name] = { shape, data: new KINDS[dtype](buffer.slice(start + from, start + to)) };
  }
  for (const name of Object.keys(found).filter(name => `${name}.scale` in found)) found[name] = restored(found[name], found[`${name}.scale`]);
  return found;
}

// The weights of integers between -127 and 127: each row has its scale.
function restored({ shape, data }, { data: scale }) {
  const width = shape[1], out = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) out[i] = data[i] * scale[Math.floor(i / width)];
  return { shape, data: out };
}

export async function read(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return parse(await answer.arrayBuffer());
}
