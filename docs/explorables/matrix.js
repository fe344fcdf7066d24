// The numbers of a VAE with one hidden layer a side: encode, decode, the terms of its ELBO in nats.
// A model is what `read` gives: tensors by the names that PyTorch gives them.

export const SIDE = 28, PRIOR_95 = Math.sqrt(-2 * Math.log(0.05)); // of an image, in pixels; the radius that holds 95% of N(0, I) in the plane

export const range = n => [...Array(n).keys()];
export const sum = values => values.reduce((a, b) => a + b, 0);
export const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
export const sigmoid = a => 1 / (1 + Math.exp(-a));
export const softplus = a => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a)));
export const relu = values => values.map(v => Math.max(v, 0));

// The rows of a matrix, and the test digits of the map.
export const rowsOf = ({ shape: [n, width], data }) => range(n).map(i => Float64Array.from(data.subarray(i * width, (i + 1) * width)));
export const mapPoints = ({ mu, labels }) => rowsOf(mu).map(([a, b], i) => ({ label: labels.data[i], z: [a, b] }));

// W x + b in double precision, without the terms that are zero: half of the hidden units, and most pixels.
export function dense(model, layer, x) {
  const { shape: [rows, columns], data: weight } = model[`${layer}.weight`], bias = model[`${layer}.bias`].data;
  const out = new Float64Array(rows), on = Uint32Array.from(range(columns).filter(j => x[j])), values = Float64Array.from(on, j => x[j]);
  for (let i = 0; i < rows; i++) {
    let total = bias[i];
    for (let j = 0, k = i * columns; j < on.length; j++) total += weight[k + on[j]] * values[j];
    out[i] = total;
  }
  return out;
}

export function encode(model, x) {
  const hidden = relu(dense(model, "fc_encoder_hidden", x));
  return { mu: dense(model, "fc_mu", hidden), logVar: dense(model, "fc_log_var", hidden) };
}

export const decodeLogits = (model, z) => dense(model, "fc_output", relu(dense(model, "fc_decoder_hidden", z)));
export const decode = (model, z) => decodeLogits(model, z).map(sigmoid);

// z = mu + sigma epsilon
export const sample = ({ mu, logVar }, epsilon) => mu.map((m, i) => m + Math.exp(logVar[i] / 2) * epsilon[i]);

// -log p(x|z) of pixels that are coins.
export const reconstruction = (logits, x) => sum(logits.map((a, i) => softplus(a) - x[i] * a));

// The KL divergence of each latent from N(0, 1).
export const klOfEach = ({ mu, logVar }) => mu.map((m, i) => (m * m + Math.exp(logVar[i]) - 1 - logVar[i]) / 2);

// Standard normal numbers (Box and Muller).
export const normals = n => Float64Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
