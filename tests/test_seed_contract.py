"""A program that wrote its own VAE replaces class and loss with ours, and notices nothing."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vae_nbdev.loss import loss_function
from vae_nbdev.model import VAE

SIZES = dict(input_dim=784, hidden_dim=400, latent_dim=20)


class Reference(nn.Module):
    """The seed's architecture: its names, its order of creation, its noise, its sigmoid."""

    def __init__(self, input_dim, hidden_dim, latent_dim):
        super().__init__()
        self.pixels = input_dim
        self.fc_encoder_hidden = nn.Linear(input_dim, hidden_dim)
        self.fc_mu = nn.Linear(hidden_dim, latent_dim)
        self.fc_log_var = nn.Linear(hidden_dim, latent_dim)
        self.fc_decoder_hidden = nn.Linear(latent_dim, hidden_dim)
        self.fc_output = nn.Linear(hidden_dim, input_dim)

    def encode(self, rows):
        hidden = F.relu(self.fc_encoder_hidden(rows))
        return self.fc_mu(hidden), self.fc_log_var(hidden)

    def reparameterize(self, mu, log_var):
        sigma = torch.exp(log_var * 0.5)
        return mu + torch.randn_like(sigma) * sigma

    def decode(self, z):
        return torch.sigmoid(self.fc_output(F.relu(self.fc_decoder_hidden(z))))

    def forward(self, images):
        mu, log_var = self.encode(images.view(-1, self.pixels))
        return self.decode(self.reparameterize(mu, log_var)), mu, log_var


def reference_loss(recon_x, x, mu, log_var):
    cross_entropy = F.binary_cross_entropy(recon_x, x.view(-1, 784), reduction="sum")
    return cross_entropy - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())


def seeded(make, seed=42):
    torch.manual_seed(seed)
    return make(**SIZES)


def forward(model, images, seed=7):
    torch.manual_seed(seed)
    return model(images)


def train(make, loss_of, images, steps=20):
    """The seed's loop, word for word but for the data loader."""
    model = seeded(make)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for data in images.split(128)[:steps]:
        optimizer.zero_grad()
        recon_batch, mu, log_var = model(data)
        loss = loss_of(recon_batch, data, mu, log_var)
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def trained(mnist):
    images = mnist["train"][0]
    return train(Reference, reference_loss, images), train(VAE, loss_function, images)


def test_same_seed_same_weights():
    theirs, ours = seeded(Reference).state_dict(), seeded(VAE).state_dict()
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_state_dicts_load_both_ways(mnist):
    images = mnist["test"][0][:64]
    for source, target in ((seeded(Reference, 1), seeded(VAE, 2)), (seeded(VAE, 3), seeded(Reference, 4))):
        target.load_state_dict(source.state_dict(), strict=True)
        assert all(torch.equal(a, b) for a, b in zip(forward(source, images), forward(target, images)))


@pytest.mark.parametrize("shape", [(-1, 784), (-1, 1, 28, 28)])
def test_same_seed_same_outputs(shape, mnist):
    images = mnist["test"][0][:128].view(shape)
    theirs, ours = forward(seeded(Reference), images), forward(seeded(VAE), images)
    assert [tuple(t.shape) for t in ours] == [(128, 784), (128, 20), (128, 20)]
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours))
    assert ours[0].view(128, 1, 28, 28).shape == (128, 1, 28, 28)  # as the seed's pictures take it


def test_parts_agree():
    theirs, ours, z = seeded(Reference), seeded(VAE), torch.randn(9, 20)
    x = torch.rand(9, 784)
    assert torch.equal(theirs.decode(z), ours.decode(z))
    assert all(torch.equal(a, b) for a, b in zip(theirs.encode(x), ours.encode(x)))
    torch.manual_seed(5)
    sample = theirs.reparameterize(z, -z)
    torch.manual_seed(5)
    assert torch.equal(sample, ours.reparameterize(z, -z))


def test_losses_agree_on_real_batches(mnist, trained):
    """Untrained and trained, on full batches and on a last, smaller one."""
    images = mnist["test"][0]
    with torch.no_grad():
        for model in (seeded(VAE), *trained):
            for x in (*images[:1280].split(128), images[-16:]):
                outputs = forward(model, x)
                theirs = reference_loss(outputs[0], x, *outputs[1:])
                ours = loss_function(outputs[0], x, *outputs[1:])
                assert ours.shape == () and abs(ours - theirs) <= 1e-6 * theirs


def test_same_training_same_weights(trained):
    start = seeded(VAE).state_dict()
    for (name, theirs), ours in zip(trained[0].named_parameters(), trained[1].parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (theirs - start[name]).abs().max() > 1e-3  # there was something to agree on
