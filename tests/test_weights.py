"""The models that come with the package: small files, described, rounded, and as good as they say."""
import json

import pytest
import torch
from torch import nn

from vae_nbdev import BurdaVAE, VAE, keep, pretrained, report, runs
from vae_nbdev.cli import make_parser
from vae_nbdev.weights import COMMANDS, describe, weights_file


def test_the_files_are_small_and_say_what_they_are():
    shelf = pretrained()
    assert [*shelf] == [*COMMANDS] and sum(weights_file(name).stat().st_size for name in shelf) <= 6_100_000
    for name, found in shelf.items():
        model = pretrained(name)
        assert found.kind == type(model).__name__ and found.parameters == sum(p.numel() for p in model.parameters())
        assert found.command == COMMANDS[name] and found.kilobytes == round(weights_file(name).stat().st_size / 1000)
        assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
        assert model.image_shape and not set(found.row) - {"nats", "standard_error", "bound", "protocol"}


@pytest.mark.parametrize("command", COMMANDS.values())
def test_each_command_is_one_of_the_command_line(command):
    args = make_parser().parse_args(command.split())
    assert args.run.__name__ == "train" and args.seed == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_row_follows_from_its_file(name):
    """The evaluation is repeated by its protocol: the first 500 test images, 100 samples for each."""
    from vae_nbdev.cli import read_data
    kept, images, labels = describe(weights_file(name)).row, *read_data({"dataset": name.partition("-")[0]}, ["test"])[0]
    row = report(pretrained(name), (images[:500], labels[:500]), 100, data_name=name.partition("-")[0])
    assert str(row.protocol) == kept["protocol"]
    assert row.nats == pytest.approx(kept["nats"], abs=1e-2) and row.bound == pytest.approx(kept["bound"], abs=1e-2)


def test_rounding_keeps_eleven_bits_and_what_is_no_float(tmp_path):
    torch.manual_seed(0)
    model = VAE(6, 5, 2, image_shape=(1, 2, 3))
    file = keep(model, tmp_path / "deep/er/m.safetensors", "train", {"nats": 1.5})
    again = runs.load(file)
    assert again.image_shape == (1, 2, 3) and describe(file).row == {"nats": 1.5} and describe(file).command == "train"
    for p, q in zip(model.parameters(), again.parameters()):
        assert q.dtype == torch.float32 and ((p - q).abs() <= p.abs() * 2**-11 + 2**-25).all() and torch.equal(q, q.half().float())
    assert file.stat().st_size < 4 * describe(file).parameters + 1000
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["m.safetensors"]


def test_bad_input_costs_one_sentence(tmp_path):
    wild = BurdaVAE(6, (4,), 2)
    with torch.no_grad(): wild.fc_mu.bias[0] = 1e6
    for call, said in ((lambda: pretrained("mnist-fastest"), "name must be one of mnist-fast, .* not 'mnist-fastest'"),
                       (lambda: keep(nn.Linear(2, 2), tmp_path / "x", "", {}), "model must be of a class of this package, not a Linear"),
                       (lambda: keep(wild, tmp_path / "x", "", {}), "fc_mu.bias has others")):
        with pytest.raises(ValueError, match=said): call()
    assert not list(tmp_path.iterdir())
