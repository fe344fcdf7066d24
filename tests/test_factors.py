"""What the latents hold: scores of codes whose answer is known, and what must not change them."""
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st

from vae_nbdev.factors import (accuracy, additive_importance, bin_codes, dci, factor_entropy, focus, indicators,
                               linear_probe, mig, mutual_information, plot_traversals, sample_codes, traverse)
from vae_nbdev.model import VAE, decode, posterior_mean
from vae_nbdev.sprites import draw_factors

seeded = lambda seed: torch.Generator().manual_seed(seed)


def standard(x):
    return (x - x.mean(0)) / x.std(0)


def some_factors(n=4000, sizes=(4, 3, 5), seed=0):
    return torch.stack([torch.randint(k, (n,), generator=seeded(seed + i)) for i, k in enumerate(sizes)], 1)


def aligned_codes(factors, seed=9, noise=0.02):
    return standard(factors.float()) + noise * torch.randn(factors.shape, generator=seeded(seed))


def naive(a, b):
    n, pairs, first, second = len(a), Counter(zip(a, b)), Counter(a), Counter(b)
    return sum(m / n * math.log(n * m / (first[i] * second[j])) for (i, j), m in pairs.items())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 200), st.integers(2, 6))
def test_information_is_that_of_plain_counting(seed, n, bins):
    z, v = torch.randn(n, 3, generator=seeded(seed)), some_factors(n, (4, 2), seed)
    found, cells = mutual_information(z, v, bins), bin_codes(z, bins)
    for j in range(3):
        for k in range(2):
            assert found[j, k].item() == pytest.approx(naive(cells[:, j].tolist(), v[:, k].tolist()), abs=1e-9)


def test_information_of_a_factor_about_itself_is_its_entropy():
    v = some_factors()
    assert torch.allclose(mutual_information(v.float(), v).diagonal(), factor_entropy(v), atol=1e-9)


def test_bins_are_of_equal_width_and_ends_belong():
    z = torch.tensor([[0.0], [0.99], [1.0], [3.5], [4.0]])
    assert bin_codes(z, 4).flatten().tolist() == [0, 0, 1, 3, 3]
    assert bin_codes(torch.full((5, 1), 2.0)).flatten().tolist() == [0] * 5


def test_indicators_take_any_whole_numbers():
    table, sizes = indicators(torch.tensor([[7, -1], [9, -1], [7, 3]]))
    assert sizes == [2, 2] and table.tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]


def test_aligned_codes_score_one():
    v = some_factors()
    z = torch.cat([aligned_codes(v)[:, [2, 0, 1]], torch.randn(len(v), 2, generator=seeded(5))], 1)
    assert mig(z, v).score == pytest.approx(1, abs=0.03)
    assert dci(z, v)[:3] == pytest.approx((1, 1, 1), abs=0.03)
    assert mig(z, v).information.argmax(0).tolist() == [1, 2, 0]
    assert (linear_probe(z, v) > 0.99).all()


def test_noise_scores_nothing():
    v = some_factors(20_000)
    z = torch.randn(20_000, 6, generator=seeded(3))
    assert mig(z, v).score < 0.01
    found = dci(z, v)
    assert found.disentanglement < 0.06 and found.completeness < 0.06 and found.importance.max() < 0.01
    chance = torch.tensor([1 / 4, 1 / 3, 1 / 5])
    assert (found.accuracy - chance).abs().max() < 0.03 and (linear_probe(z, v) - chance).abs().max() < 0.03


def test_a_rotation_ruins_the_scores_of_axes_and_not_the_probe():
    v = some_factors()
    z = aligned_codes(v)
    Q = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1))).Q
    before, after = linear_probe(z, v), linear_probe(z @ Q, v)
    assert (before - after).abs().max() < 0.01
    assert mig(z @ Q, v).score < 0.4 and dci(z @ Q, v).disentanglement < 0.6


def test_scores_do_not_depend_on_order_scale_sign_or_names():
    v = some_factors()
    z = aligned_codes(v, noise=0.5)
    a, b = mig(z, v), dci(z, v)
    other_z, other_v = -3 * z[:, [1, 2, 0]] + 7, 10 - 2 * v[:, [2, 1, 0]]
    c, d = mig(other_z, other_v), dci(other_z, other_v)
    assert c.score == pytest.approx(a.score, abs=0.01) and d[:3] == pytest.approx(b[:3], abs=0.01)
    assert torch.allclose(c.information, a.information[[1, 2, 0]][:, [2, 1, 0]], atol=0.01)


def test_two_latents_for_a_factor_and_two_factors_for_a_latent():
    v = some_factors()
    z = aligned_codes(v)
    double = dci(torch.cat([z, z], 1), v)
    assert double[:2] == pytest.approx((1, 1 - math.log(2) / math.log(6)), abs=0.02)
    assert mig(torch.cat([z, z], 1), v).score < 0.01
    both = torch.stack([3.0 * v[:, 0] + v[:, 1], v[:, 2]], 1)
    merged = dci(both, v)
    assert merged[:2] == pytest.approx((1 / 3 + 2 / 3 * (1 - math.log(2) / math.log(3)), 1), abs=0.02)
    assert mig(both, v).score > 0.97


def test_one_latent_has_no_second():
    v = some_factors()
    assert mig(v[:, :1].float(), v[:, :1]).score == pytest.approx(1)


def test_importance_is_found_where_the_relation_bends():
    """A factor that is the size of a latent without its sign: nothing for a line, all for a function."""
    z = torch.rand(8000, 2, generator=seeded(0)) * 2 - 1
    v = (4 * z[:, :1].abs()).long().clamp(0, 3)
    importance, right = additive_importance(z, v, bins=40)
    assert importance[0, 0] > 0.95 and importance[1, 0] < 0.02 and right[0] > 0.95


def test_accuracy_is_of_pictures_that_were_not_learned_from():
    """As many intervals as pictures: the first half is known by heart, the second is not."""
    z, v = torch.randn(200, 1, generator=seeded(0)), some_factors(200, (2,))
    assert abs(additive_importance(z, v, bins=5000)[1].item() - 0.5) < 0.15


@pytest.mark.parametrize("row, wanted", [([1, 0, 0], 1), ([2, 2, 2], 0), ([0.5, 0.5, 0], 1 - math.log(2) / math.log(3))])
def test_focus(row, wanted):
    assert focus(torch.tensor([row]).float()).item() == pytest.approx(wanted, abs=1e-6)


def test_accuracy_counts_each_factor_by_itself():
    table, sizes = indicators(torch.tensor([[0, 0], [1, 1], [1, 2]]))
    score = torch.tensor([[9.0, 1, 5, 0, 0], [0, 9, 5, 0, 0], [9, 0, 0, 0, 5]])
    assert torch.allclose(accuracy(score, table, sizes), torch.tensor([2 / 3, 2 / 3]))


@pytest.mark.parametrize("codes, factors, says", [
    (torch.rand(5), some_factors(5), "codes must be a tensor of two dimensions"),
    (torch.rand(5, 2), [1, 2, 3], "factors must be a tensor of two dimensions, a row for each picture, not list"),
    (torch.rand(5, 2), torch.rand(5, 2), "factors must hold whole numbers"),
    (torch.rand(5, 2), some_factors(6), "factors must have a row for each of 5 codes, not 6"),
    (torch.full((50, 2), torch.nan), some_factors(50), "codes must hold finite values"),
    (torch.rand(50, 2), torch.cat([some_factors(50), torch.ones(50, 1, dtype=torch.long)], 1), "column 3 has one value"),
])
@pytest.mark.parametrize("score", [mutual_information, mig, dci, linear_probe])
def test_what_cannot_be_scored_is_refused_in_a_sentence(score, codes, factors, says):
    with pytest.raises(ValueError, match=says): score(codes, factors)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VAE(3 * 8 * 8, 16, 4, image_shape=(3, 8, 8))


def test_samples_are_those_of_the_posterior(model):
    image = torch.rand(1, 3, 8, 8, generator=seeded(0))
    z = sample_codes(model, image.expand(20_000, -1, -1, -1))
    mu, log_var = model.encode(image)
    assert torch.allclose(z.mean(0), mu[0].detach(), atol=0.04)
    assert torch.allclose(z.std(0), (0.5 * log_var[0]).exp().detach(), rtol=0.04)
    images = torch.rand(7, 3, 8, 8, generator=seeded(1))
    assert torch.equal(sample_codes(model, images), sample_codes(model, images))
    assert not torch.equal(sample_codes(model, images), sample_codes(model, images, seed=1))


def test_a_walk_changes_one_latent(model):
    image = torch.rand(3, 8, 8, generator=seeded(0))
    z = posterior_mean(model, image[None])
    walks = traverse(model, image, dims=[2, 0], values=torch.tensor([-1.0, z[0, 2].item(), 2.0]))
    assert walks.shape == (2, 3, 3, 8, 8)
    assert torch.allclose(walks[0, 1], decode(model, z)[0], atol=1e-6)
    moved = z.clone()
    moved[0, 0] = 2.0
    assert torch.allclose(walks[1, 2], decode(model, moved)[0], atol=1e-6)
    assert traverse(model, image).shape == (4, 9, 3, 8, 8)


def test_walks_are_drawn_a_row_for_each_latent(model):
    figure = plot_traversals(model, torch.rand(3, 8, 8, generator=seeded(0)), dims=[3, 1])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["$z_{3}$", "$z_{1}$"]


def test_factors_of_sprites_are_scored_as_they_come():
    v = draw_factors(3000)
    assert mig(v.float(), v).score > 0.97 and dci(v.float(), v).disentanglement > 0.98
