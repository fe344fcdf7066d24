"""How far weights of eight bits can move what two layers make of their inputs."""
from vae_nbdev.explorables import half


def parts(model):
    "The weights and biases of a model as they are, by name, and the scale of each row, by layer."
    weight, scale = {}, {}
    for part in ("encoder", "decoder"):
        weight |= {key: t.double() for key, t in half(model, part, None).items()}
        scale |= {key.removesuffix(".weight.scale"): t.double() for key, t in half(model, part).items() if key.endswith("scale")}
    return weight, scale


def layers(weight, scale, inputs, hidden, outputs):
    """Outputs of two layers, their bounds, and their typical deviations. Half a step of rounding, s / 2, for each weight of a row moves a hidden
    unit by at most e = s |x|_1 / 2 (a ReLU adds nothing), and a row of the next layer by |W| e + S |h + e|_1 / 2. Roundings that know nothing of
    each other have the variance s^2 / 12; what comes of that is typical, and six times as much never happens."""
    W, s = weight[f"{hidden}.weight"], scale[hidden]
    h, e = (inputs @ W.T + weight[f"{hidden}.bias"]).relu(), s / 2 * inputs.abs().sum(1, keepdim=True)
    spread = s**2 / 12 * inputs.square().sum(1, keepdim=True)  # variance of each hidden unit
    for name in outputs:
        W, S = weight[f"{name}.weight"], scale[name]
        typical = spread @ W.square().T + S**2 / 12 * h.square().sum(1, keepdim=True)
        yield h @ W.T + weight[f"{name}.bias"], e @ W.abs().T + S / 2 * (h + e).sum(1, keepdim=True), typical.sqrt()
