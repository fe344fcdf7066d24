"""Sprites: what a row of factors says is what the picture shows."""
import math
import time

import pytest
import torch
from hypothesis import given, settings, strategies as st

from vae_nbdev.data import kind_of_values, make_loader
from vae_nbdev.sprites import (BACKGROUNDS, COLOURS, DIGIT_FACTORS, FACTORS, SHAPES, SIZES, colour_digits, coverage,
                               draw_factors, draw_sprites, load_sprites)

NAMES = list(FACTORS)


@pytest.fixture(scope="module")
def sprites():
    return load_sprites(500)


def test_the_same_seed_gives_the_same_pictures(sprites):
    again, other = load_sprites(500), load_sprites(500, seed=1)
    assert torch.equal(again[0], sprites[0]) and torch.equal(again[1], sprites[1])
    assert not torch.equal(other[1], sprites[1])


def test_pictures_are_grey_levels_in_the_unit_interval(sprites):
    images, factors = sprites
    assert images.shape == (500, 3, 32, 32) and factors.shape == (500, 7) and factors.dtype == torch.int64
    assert images.dtype == torch.float32 and kind_of_values(images) == "grey"
    assert torch.equal(images, (255 * images).round() / 255)


@pytest.mark.parametrize("side", [8, 15, 64])
def test_any_side(side):
    images, _ = load_sprites(5, side)
    assert images.shape == (5, 3, side, side)


def test_a_picture_does_not_depend_on_its_neighbours(sprites):
    images, factors = sprites
    for i in (0, 17, 499): assert torch.equal(draw_sprites(factors[i:i + 1])[0], images[i])
    turned = draw_sprites(factors.flip(0))
    assert torch.equal(turned.flip(0), images)


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_sprites(10)
    colour_digits(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_factors_are_uniform_and_independent():
    factors = draw_factors(40_000, seed=7)
    for column, size in zip(factors.T, FACTORS.values()):
        share = column.bincount(minlength=size) / len(column)
        assert len(share) == size and (share * size - 1).abs().max() < 0.06
    correlation = torch.corrcoef(factors.T.double()) - torch.eye(7)
    assert correlation.abs().max() < 0.025


def test_fixed_factors_are_held_and_the_others_stay():
    free, held = draw_factors(100, seed=2), draw_factors(100, seed=2, fixed={"angle": 3, "colour": 0})
    assert (held[:, 2] == 3).all() and (held[:, 5] == 0).all()
    rest = [0, 1, 3, 4, 6]
    assert torch.equal(held[:, rest], free[:, rest])


def test_corners_show_the_background_and_some_pixel_the_colour(sprites):
    images, factors = sprites
    bytes_of = lambda x: (255 * x).round()
    assert torch.equal(bytes_of(images[:, 0, 0, 0]), bytes_of(BACKGROUNDS[factors[:, 6]]))
    off = (bytes_of(images) - bytes_of(COLOURS[factors[:, 5]])[:, :, None, None]).abs().sum(1)  # (N, S, S)
    assert (off.flatten(1).amin(1) == 0).all()


@pytest.mark.parametrize("name", SHAPES)
def test_area_and_centre_are_those_of_the_shape(name):
    """Counted on a grid that knows nothing of pictures."""
    line = torch.linspace(-2, 2, 1601, dtype=torch.double)
    v, u = torch.meshgrid(line, line, indexing="ij")
    shape = SHAPES[name]
    inside = shape.distance(u, v) < 0
    assert inside.sum() * (line[1] - line[0])**2 == pytest.approx(shape.area, rel=5e-3)
    assert (u[inside].mean().item(), v[inside].mean().item()) == pytest.approx(shape.centre, abs=3e-3)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 2**31))
def test_a_distance_changes_no_faster_than_the_point_moves(name, seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = 2 * torch.randn(2, 2, 100, generator=generator, dtype=torch.double)
    moved = SHAPES[name].distance(*p) - SHAPES[name].distance(*q)
    assert (moved.abs() <= torch.hypot(*(p - q)) + 1e-9).all()


def test_coverage_of_a_straight_edge_is_exact():
    d = torch.linspace(-2, 2, 41)
    assert torch.allclose(coverage(d), torch.tensor([max(0.0, min(1.0, 0.5 - t)) for t in d.tolist()]))
    assert coverage(torch.tensor(0.0)) == 0.5


def test_size_is_the_root_of_the_area():
    for size in range(4):
        images, _ = load_sprites(50, 64, fixed={"size": size, "colour": 0, "background": 0})
        area = images[:, 0].sum((1, 2)) / images[:, 0].amax((1, 2)) * (2 / 64)**2
        assert torch.allclose(area, SIZES[size]**2, rtol=0.02)


def test_places_are_to_the_right_and_upwards():
    row = torch.tensor([[1, 2, 3, 2, 2, 0, 0]])
    centre = lambda x: [(x[0, 0].sum(dim) * torch.arange(32)).sum() / x[0, 0].sum() for dim in (0, 1)]  # column, row
    column, line = centre(draw_sprites(row))
    right, up = row.clone(), row.clone()
    right[0, 3], up[0, 4] = 6, 6
    assert centre(draw_sprites(right))[0] > column + 5 and abs(centre(draw_sprites(right))[1] - line) < 0.3
    assert centre(draw_sprites(up))[1] < line - 5 and abs(centre(draw_sprites(up))[0] - column) < 0.3


def test_angles_are_counterclockwise():
    before = draw_factors(200, seed=3)
    before[:, 2] %= 4
    after = before.clone()
    after[:, 2], after[:, 3], after[:, 4] = before[:, 2] + 4, 7 - before[:, 4], before[:, 3]
    assert torch.allclose(draw_sprites(after), torch.rot90(draw_sprites(before), 1, (2, 3)), atol=1.5 / 255)


@pytest.mark.slow
def test_no_two_rows_of_factors_give_the_same_picture():
    every = torch.cartesian_prod(*(torch.arange(size) for size in FACTORS.values()))
    key = torch.rand(3 * 16 * 16, generator=torch.Generator().manual_seed(0)).double()
    seen = torch.cat([draw_sprites(part, 16).flatten(1).double() @ key for part in every.split(8192)])
    assert len(seen.unique()) == len(every) == math.prod(FACTORS.values())


def test_thousands_a_second():
    start = time.process_time()
    load_sprites(2000)
    assert 2000 / (time.process_time() - start) > 2000


def test_pairs_go_through_a_loader(sprites):
    x, y = next(iter(make_loader(sprites, 16)))
    assert x.shape == (16, 3, 32, 32) and y.shape == (16, 7)


@pytest.mark.parametrize("call, says", [
    (lambda: draw_sprites(torch.zeros(3, 2, dtype=torch.long)), "shape, size, angle"),
    (lambda: draw_sprites(torch.zeros(3, 7)), "factors must be a tensor of whole numbers"),
    (lambda: draw_sprites(torch.full((3, 7), 7)), "factors must have shape from 0 to 3, not from 7 to 7"),
    (lambda: draw_sprites(torch.zeros(0, 7, dtype=torch.long)), "factors must be"),
    (lambda: load_sprites(3, side=4), "side must be a whole number of at least 8"),
    (lambda: load_sprites(0), "n must be a whole number of at least 1"),
    (lambda: load_sprites(3, fixed={"color": 1}), "fixed must name factors among shape, .*, not 'color'"),
    (lambda: load_sprites(3, fixed={"colour": 6}), "factors must have colour from 0 to 5"),
    (lambda: load_sprites(3, seed=-1), "seed must be"),
    (lambda: colour_digits(torch.rand(4, 3, 8, 8)), "images must be grey"),
    (lambda: colour_digits(2 * torch.ones(4, 1, 8, 8)), "images must hold finite values"),
    (lambda: colour_digits(torch.rand(4, 1, 8, 8), factors=torch.zeros(3, 2, dtype=torch.long)), "a row for each of 4"),
    (lambda: colour_digits(torch.rand(4, 1, 8, 8), factors=torch.zeros(4, 7, dtype=torch.long)), "colour, background"),
])
def test_what_cannot_be_drawn_is_refused_in_a_sentence(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_coloured_digits_have_their_colours():
    grey = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(24, 1, 2, 3)
    images, factors = colour_digits(grey, factors=torch.cartesian_prod(torch.arange(6), torch.arange(4)))
    black, middle, white = images[:, :, 0].unbind(2)
    colour, background = COLOURS[factors[:, 0]], BACKGROUNDS[factors[:, 1]][:, None]
    for seen, wanted in ((black, background.expand(-1, 3)), (white, colour), (middle, (colour + background) / 2)):
        assert (255 * (seen - wanted)).abs().max() <= 0.51


def test_colours_of_digits_follow_from_the_seed_alone():
    grey = torch.rand(300, 8, 8, generator=torch.Generator().manual_seed(0))
    a, b = colour_digits(grey, seed=4), colour_digits(1 - grey, seed=4)
    assert torch.equal(a[1], b[1]) and a[0].shape == (300, 3, 8, 8)
    assert [len(column.unique()) for column in a[1].T] == list(DIGIT_FACTORS.values())
    assert not torch.equal(colour_digits(grey, seed=5)[1], a[1])
