"""Pictures draw what they say, refuse what they cannot draw, and leave nothing behind."""
import json
import math
import time

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.utils.data import DataLoader, TensorDataset

from vae_nbdev import visualization as v
from vae_nbdev.elbo import PPCA
from vae_nbdev.model import VAE, decode, posterior_mean, reconstruct
from vae_nbdev.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:train_data holds continuous values")  # uniform noise
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def make(latent_dim=5, input_dim=784, image_shape=None):
    torch.manual_seed(latent_dim)
    return VAE(input_dim, 16, latent_dim, image_shape)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


IMAGES = torch.rand(23, 1, 28, 28, generator=seeded())
LABELS = torch.arange(23) % 10
HISTORY = {f"{split}_{term}": [9.0 - i + len(term) for i in range(4)] for split in ("train", "test")
           for term in ("loss", "reconstruction", "kl")} | {"epoch_seconds": [1.0] * 4}
PLOTS = {
    "losses": lambda: v.plot_losses(HISTORY),
    "reconstructions": lambda: v.plot_reconstructions(make(), IMAGES),
    "reconstruction_history": lambda: v.plot_reconstruction_history(IMAGES, {5: IMAGES, 10: IMAGES}),
    "samples": lambda: v.plot_samples(make()),
    "latent_space_1": lambda: v.plot_latent_space(make(1), (IMAGES, LABELS)),
    "latent_space_2": lambda: v.plot_latent_space(make(2), (IMAGES, LABELS)),
    "latent_space_5": lambda: v.plot_latent_space(make(5), (IMAGES, LABELS)),
    "manifold": lambda: v.plot_manifold(make(2)),
    "interpolation": lambda: v.plot_interpolation(make(), IMAGES[0], IMAGES[1]),
    "no_labels": lambda: v.plot_latent_space(make(2), IMAGES),
    "no_labels_1": lambda: v.plot_latent_space(make(1), IMAGES),
    "many_labels": lambda: v.plot_latent_space(make(2), (IMAGES, torch.arange(23))),
    "colour": lambda: v.plot_samples(make(5, 3 * 8 * 12, (3, 8, 12)), 7),
    "one_term": lambda: v.plot_losses({"train_loss": [2.0, 1.0]}),
    "steps": lambda: v.plot_losses(HISTORY | {"step_loss": [9.0 - i / 20 for i in range(100)]}),
}


def colors(figure):
    "What a grid figure shows, (3, height, width), NaN where it is transparent."
    (ax,) = figure.axes
    (image,) = ax.images
    rgba = torch.from_numpy(np.asarray(image.get_array(), "float32")).permute(2, 0, 1)
    assert set(rgba[3].unique().tolist()) <= {0, 1}
    return rgba[:3].masked_fill(rgba[3] == 0, torch.nan)


def drawn(figure):
    "The same of grey images, (height, width)."
    red, green, blue = colors(figure).nan_to_num(-1)
    assert torch.equal(red, green) and torch.equal(red, blue)
    return colors(figure)[0]


def cell(grid, row, column, gap=2, size=(28, 28)):
    y, x = (i * (side + gap) for i, side in zip((row, column), size))
    return grid[..., y:y + size[0], x:x + size[1]]


def labels_of(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


# --- what every picture promises

@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_a_picture_is_the_same_in_every_style_and_leaves_nothing_behind(plot, tmp_path):
    plain, dark, printed = (tmp_path / f"{name}.png" for name in ("plain", "dark", "printed"))
    figure = plot()
    figure.savefig(plain)
    with mpl.rc_context():
        plt.style.use("dark_background")
        mpl.rcParams.update({"font.size": 21, "axes.titlesize": 30, "xtick.labelsize": 20})
        before = dict(mpl.rcParams)
        plot().savefig(dark)
        other = plot()
        other.canvas.print_figure(printed, facecolor=other.get_facecolor())  # what a notebook's inline backend calls
        assert dict(mpl.rcParams) == before
    for picture in (dark, printed): np.testing.assert_array_equal(plt.imread(plain), plt.imread(picture))
    assert isinstance(figure, Figure) and plt.get_fignums() == []
    box, page = figure.get_tightbbox(), figure.get_size_inches()  # no label is clipped
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page[0] and box.y1 <= page[1]


def test_pictures_leave_model_and_random_numbers_alone():
    model = nn.ModuleDict({"free": make(2).train(), "frozen": make(2).eval()})  # two modes under one roof
    model.train(), model["frozen"].eval()
    plots = [v.plot_samples, v.plot_manifold, lambda m: v.plot_reconstructions(m, IMAGES),
             lambda m: v.plot_latent_space(m, (IMAGES, LABELS)), lambda m: v.plot_interpolation(m, *IMAGES[:2])]
    before = torch.get_rng_state()
    for plot in plots:
        for name, training in (("free", True), ("frozen", False)):
            plot(model[name])
            assert model[name].training is training and all(p.requires_grad and p.grad is None for p in model[name].parameters())
    v.generate_samples(model["free"], 3, seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_notebook_shows_a_picture_once():
    """In a real kernel: without pyplot, with pyplot, and not at all where it is not a cell's last value."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    first = "import sys, torch\nfrom vae_nbdev.model import VAE\nfrom vae_nbdev.visualization import plot_samples\nmodel = VAE(784, 4, 2)\nplot_samples(model, 2)"
    cells = [first, "assert 'matplotlib.pyplot' not in sys.modules", "import matplotlib.pyplot as plt\nplot_samples(model, 2)",
             "figure = plot_samples(model, 2)", "plt.plot([1, 2])\nplt.show()", "plot_samples(model, 2)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [sum("image/png" in o.get("data", {}) for o in cell.outputs) for cell in notebook.cells]
    assert shown == [1, 0, 1, 0, 1, 1]


# --- grids

@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 30), h=st.integers(1, 4), w=st.integers(1, 4), gap=st.integers(0, 3), columns=st.none() | st.integers(1, 40))
def test_image_grid_has_every_image_in_reading_order_and_blanks_elsewhere(n, h, w, gap, columns):
    images = torch.rand(n, 1, h, w, generator=seeded(n))
    grid = v.image_grid(images, columns, gap)
    per_row = min(n, columns or math.ceil(math.sqrt(n * h / w)))  # None: as square as it can be
    assert grid.shape == (math.ceil(n / per_row) * (h + gap) - gap, per_row * (w + gap) - gap)
    blank = grid.clone()
    for k, image in enumerate(images[:, 0]):
        y, x = k // per_row * (h + gap), k % per_row * (w + gap)
        assert torch.equal(grid[y:y + h, x:x + w], image)
        blank[y:y + h, x:x + w] = torch.nan
    assert blank.isnan().all()
    if h > 1: assert torch.equal(v.image_grid(images[:, 0], columns, gap).nan_to_num(-1), grid.nan_to_num(-1))


@pytest.mark.parametrize("count", [1, 2, 7, 13, 64])
def test_grid_pixels_are_whole_screen_pixels(count):
    figure = v.plot_samples(make(), count)
    grid, box = drawn(figure), figure.axes[0].get_window_extent()
    zoom = box.width / grid.shape[1]
    assert zoom == pytest.approx(round(zoom)) and box.height / grid.shape[0] == pytest.approx(zoom)
    assert box.x0 == pytest.approx(round(box.x0)) and box.y0 == pytest.approx(round(box.y0))


# --- losses

@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("with_test", [True, False])
def test_losses_draw_the_history(epochs, with_test):
    history = {k: x[:epochs] if with_test or "test" not in k else [] for k, x in HISTORY.items()}
    figure = v.plot_losses(json.loads(json.dumps(history)))
    assert len(figure.axes) == 3 and figure.axes[0].get_ylabel() == "nats per image"
    for ax, term in zip(figure.axes, ("loss", "reconstruction", "kl")):
        assert ax.get_xlabel() == "epoch" and ax.get_title().lower().startswith(term)
        curves = {line.get_label().split()[0]: line for line in ax.lines}
        assert list(curves) == ["train", "test"][:1 + with_test] and len(ax.get_legend().texts) == len(curves)
        for split, line in curves.items():
            assert list(line.get_xdata()) == list(range(1, epochs + 1)) and list(line.get_ydata()) == history[f"{split}_{term}"]
        ticks = [t for t in ax.get_xticks() if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
        assert ticks and all(t == int(t) for t in ticks)


def test_losses_need_no_test_keys():
    figure = v.plot_losses({k: x for k, x in HISTORY.items() if "test" not in k})
    assert [len(ax.lines) for ax in figure.axes] == [1, 1, 1]


def with_steps(losses, epochs=4):
    return {k: x[:epochs] for k, x in HISTORY.items()} | {"step_loss": losses}


def curve_of(figure):
    "The line of the single steps, in the panel of the loss, which is the only one that has it."
    assert [[line.get_label() == "each step" for line in ax.lines].count(True) for ax in figure.axes] == [1] + [0] * (len(figure.axes) - 1)
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "each step")
    assert not line.get_marker() in ("o",) and line.get_linewidth() < min(o.get_linewidth() for o in figure.axes[0].lines if o is not line)
    assert line.get_zorder() < min(o.get_zorder() for o in figure.axes[0].lines if o is not line)  # the points lie on top
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


@pytest.mark.parametrize("epochs, n", [(1, 469), (2, 469), (4, 7), (4, 1), (1, 1)])
def test_losses_have_a_line_of_the_single_steps_in_units_of_epochs(epochs, n):
    S = epochs * n
    x, y = curve_of(v.plot_losses(json.loads(json.dumps(with_steps([9 - 3 * (s + 1) / S for s in range(S)], epochs)))))
    np.testing.assert_allclose(y, 9 - 3 * x / epochs, rtol=1e-4)  # a moving mean leaves a straight line where it is
    width = S - len(x) + 1
    assert width == max(1, round(S / 50)) and np.allclose(np.diff(x), 1 / n, rtol=1e-3)
    assert x[0] == pytest.approx((width + 1) / 2 / n, rel=1e-5) and x[-1] == pytest.approx(epochs - (width - 1) / 2 / n, rel=1e-5)


def test_the_line_of_a_long_run_has_a_thousand_points_and_takes_no_time():
    S, epochs = 600_000, 4
    start = time.perf_counter()
    x, y = curve_of(v.plot_losses(with_steps([9 - 3 * (s + 1) / S for s in range(S)])))
    assert time.perf_counter() - start < 20 and 900 < len(x) < 1100
    np.testing.assert_allclose(y, 9 - 3 * x / epochs, rtol=1e-4)
    assert x[0] < 0.02 * epochs and x[-1] > 0.98 * epochs and np.allclose(np.diff(x), 600 / (S / epochs), rtol=1e-2)


def test_the_line_of_the_steps_is_smooth():
    losses = [100.0] * 1000
    losses[500] = 140.0
    assert curve_of(v.plot_losses(with_steps(losses)))[1].max() == pytest.approx(102)  # spread over 2% of a thousand steps


@pytest.mark.parametrize("epochs, fall", [(1, 0.03), (1, 0.1), (2, 0.03), (2, 0.1), (20, 0.03)])
def test_the_first_steps_do_not_set_the_scale(epochs, fall):
    S = 469 * epochs
    losses = 100 + 450 * np.exp(-np.arange(S) / (fall * S)) + 20 * np.exp(-3 * np.arange(S) / S)
    train = losses.reshape(epochs, -1).mean(1).tolist()
    history = {"train_loss": train, "test_loss": [x - 2 for x in train], "step_loss": losses.tolist()}
    figure = v.plot_losses(history)
    (ax,), (x, y) = figure.axes, curve_of(figure)
    low, high = ax.get_ylim()
    assert low < min(history["test_loss"]) and max(train) < high and x[0] < 0.05 * epochs and y[0] > 300
    late = y[x > 0.12 * epochs]  # the first tenth is left out, and all else is to be seen
    assert low < late.min() and late.max() < high < max(train[0], late.max()) + 60
    assert ax.get_xlim()[0] == 0 and ax.get_xlim()[1] >= epochs


def test_losses_with_steps_share_their_epochs():
    figure = v.plot_losses(with_steps([9.0] * 40))
    assert len({ax.get_xlim() for ax in figure.axes}) == 1 and figure.axes[0].get_xlim()[0] == 0
    assert [text.get_text().split()[0] for text in figure.axes[0].get_legend().texts] == ["train", "test", "each"]


@pytest.mark.parametrize("without", [{}, {"step_loss": []}, {"step_loss": None}])
def test_losses_without_steps_are_as_before(without):
    figure, plain = v.plot_losses(HISTORY | without), v.plot_losses(HISTORY)
    for ax, before in zip(figure.axes, plain.axes):
        assert [line.get_label() for line in ax.lines] == [line.get_label() for line in before.lines] and len(ax.lines) == 2
        assert ax.get_xlim() == before.get_xlim() and ax.get_xlim()[0] > 0 and ax.get_ylim() == before.get_ylim()


def test_steps_of_an_objective_without_a_loss_are_not_drawn():
    assert [len(ax.lines) for ax in v.plot_losses({"train_kl": [2.0, 1.0], "step_loss": [3.0, 2.0]}).axes] == [1]


def test_losses_of_a_run_that_diverged(tmp_path):
    losses = [9.0 - i / 50 for i in range(150)] + [math.nan] * 30 + [math.inf] * 20
    figure = v.plot_losses(with_steps(losses))
    figure.savefig(tmp_path / "losses.png")
    low, high = figure.axes[0].get_ylim()
    assert math.isfinite(low) and low < 9.0 and high < 20 and np.isfinite(curve_of(figure)[1][:140]).all()


@pytest.mark.parametrize("terms, titles", [
    (["loss"], ["Loss"]), (["loss", "kl"], ["Loss", "KL divergence"]),
    (["loss", "reconstruction", "kl", "rate", "free_bits"], ["Loss", "Reconstruction", "KL divergence", "rate", "free_bits"])])
def test_losses_have_a_panel_for_each_term_of_any_objective(terms, titles):
    history = {f"train_{term}": [3.0, 2.0 + i] for i, term in enumerate(terms)} | {"epoch_seconds": [1.0, 1.0]}
    figure = v.plot_losses(history)
    assert [ax.get_title() for ax in figure.axes] == titles
    for ax, term in zip(figure.axes, terms): assert list(ax.lines[0].get_ydata()) == history[f"train_{term}"]


def test_losses_of_an_objective_with_terms_of_its_own():
    def objective(model, batch, generator=None):
        loss = model.posterior(batch[0]).mean.square().sum(1)
        return {"loss": loss, "half": loss / 2}

    history = fit(make(2), IMAGES, IMAGES, epochs=2, device="cpu", progress=False, objective=objective)
    assert [ax.get_title() for ax in v.plot_losses(history).axes] == ["Loss", "half"]
    assert [[line.get_label().split()[0] for line in ax.lines][:2] for ax in v.plot_losses(history).axes] == [["train", "test"]] * 2


def test_losses_read_out_large_and_small_numbers():
    figure = v.plot_losses({"train_loss": [1812.345], "test_loss": [0.12345]})
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["train 1812.3", "test 0.123"]
    figure = v.plot_losses({"train_loss": [9.87654], "test_loss": [-12.345]})
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["train 9.877", "test -12.3"]


# --- reconstructions

@pytest.mark.parametrize("n, columns, given", [(10, 10, 23), (1, 10, 23), (23, 10, 23), (50, 10, 7), (13, 4, 23), (3, 10, 1)])
@pytest.mark.parametrize("flat", [True, False])
def test_reconstructions_draw_originals_above_reconstructions(n, columns, given, flat):
    model, images = make(), IMAGES[:given].flatten(1) if flat else IMAGES[:given]
    figure = v.plot_reconstructions(model, images, n, columns, title="Epoch 5")
    grid, n = drawn(figure), min(n, given)
    columns = min(columns, n)
    with torch.no_grad(): recon = model.decode(model.encode(IMAGES[:n])[0]).view(-1, 28, 28)
    for k in range(n):
        band, column = divmod(k, columns)
        torch.testing.assert_close(cell(grid, 2 * band, column), IMAGES[k, 0])
        torch.testing.assert_close(cell(grid, 2 * band + 1, column), recon[k])
    assert grid.isfinite().sum() == 2 * n * 784
    assert labels_of(figure) == ["original", "reconstruction"] * math.ceil(n / columns)
    assert figure.axes[0].get_title() == "Epoch 5"


def test_reconstructions_take_a_pair_and_other_image_sizes():
    labelled, plain = (v.plot_reconstructions(make(), data) for data in ((IMAGES, LABELS), IMAGES))
    assert torch.equal(drawn(labelled).nan_to_num(-1), drawn(plain).nan_to_num(-1))
    wide = torch.rand(3, 1, 2, 5, generator=seeded())
    assert drawn(v.plot_reconstructions(make(input_dim=10), wide)).shape == (2 * 2 + 2, 3 * 5 + 2 * 2)


def test_reconstructions_take_bytes_and_arrays():
    bytes_ = (255 * IMAGES[:3]).round().to(torch.uint8)
    figures = [v.plot_reconstructions(make(), x) for x in (bytes_ / 255, bytes_, bytes_.numpy(), {"image": bytes_, "label": [1, 2, 3]})]
    for figure in figures[1:]: assert torch.equal(drawn(figure).nan_to_num(-1), drawn(figures[0]).nan_to_num(-1))


def test_reconstruction_history_has_a_row_per_epoch():
    snapshots = {5: IMAGES[:3] / 2, 10: IMAGES[:3] / 4}
    figure = v.plot_reconstruction_history(IMAGES[:3], snapshots, title="three")
    grid = drawn(figure)
    for row, scale in enumerate((1, 2, 4)):
        for k in range(3): assert torch.equal(cell(grid, row, k), IMAGES[k, 0] / scale)
    assert labels_of(figure) == ["original", "epoch 5", "epoch 10"] and figure.axes[0].get_title() == "three"


def test_reconstruction_history_is_what_a_callback_of_fit_collects():
    snapshots = {}

    def remember(epoch, model, history):
        if epoch % 2 == 0: snapshots[epoch] = reconstruct(model, IMAGES[:4])

    watched, alone = make(2), make(2)
    fit(watched, IMAGES, epochs=4, batch_size=5, device="cpu", progress=False, on_epoch_end=remember)
    fit(alone, IMAGES, epochs=4, batch_size=5, device="cpu", progress=False)
    for a, b in zip(watched.parameters(), alone.parameters()): assert torch.equal(a, b)
    assert labels_of(v.plot_reconstruction_history(IMAGES[:4], snapshots)) == ["original", "epoch 2", "epoch 4"]
    torch.testing.assert_close(snapshots[4], reconstruct(watched, IMAGES[:4]))


# --- samples

@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 61, 64, 100])
def test_samples_of_any_count(count):
    model = make()
    grid = drawn(v.plot_samples(model, count, seed=4))
    samples = v.generate_samples(model, count, seeded(4)).view(-1, 1, 28, 28)
    assert samples.shape == (count, 1, 28, 28) and samples.device.type == "cpu" and not samples.requires_grad
    assert grid.isfinite().sum() == count * 784
    columns = math.ceil(math.sqrt(count))
    for k in range(count): assert torch.equal(cell(grid, *divmod(k, columns)), samples[k, 0])


def test_samples_are_the_decoder_at_draws_from_the_prior():
    model = make()
    z = torch.randn(9, 5, generator=seeded(1))
    assert torch.equal(v.generate_samples(model, 9, seeded(1)).flatten(1), model.decode(z).detach())
    torch.manual_seed(1)
    assert torch.equal(v.generate_samples(model, 9).flatten(1), model.decode(z).detach())  # None is the global generator


def test_samples_options():
    model = make()
    assert drawn(v.plot_samples(model, 8, columns=8)).shape == (28, 8 * 30 - 2)
    assert v.plot_samples(model, 8, title="eight").axes[0].get_title() == "eight"
    assert not torch.equal(drawn(v.plot_samples(model, 4, seed=0)), drawn(v.plot_samples(model, 4, seed=1)))


def test_one_seed_gives_one_picture():
    model = make()
    first, again = (colors(v.plot_samples(model, 4, seed=3)).nan_to_num(-1) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_in_another_precision(dtype):
    model = make(2).to(dtype)
    assert v.generate_samples(model, 2).dtype == v.interpolate(model, *IMAGES[:2]).dtype == torch.float32
    assert torch.equal(cell(drawn(v.plot_reconstructions(model, IMAGES)), 0, 0), IMAGES[0, 0])
    v.plot_latent_space(model, (IMAGES, LABELS)), v.plot_manifold(model, 3), v.plot_interpolation(model, *IMAGES[:2])


@pytest.mark.parametrize("device", DEVICES)
def test_models_and_images_on_any_device(device):
    model, images, labels = make(2).to(device), IMAGES.to(device), LABELS.to(device)
    reference = make(2)
    pairs = [(v.generate_samples(model, 4, seeded()), v.generate_samples(model, 4, seeded())),
             (v.interpolate(model, *images[:2], steps=3), v.interpolate(reference, *IMAGES[:2], steps=3)),
             (v.interpolate(model, *images[:2]), v.interpolate(reference, *IMAGES[:2]))]
    for ours, theirs in pairs: torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(v.generate_samples(model, 4, seeded(0)), v.generate_samples(model, 4, seeded(1)))
    for figure in (v.plot_reconstructions(model, images), v.plot_latent_space(model, (images, labels)), v.plot_manifold(model, 3),
                   v.plot_interpolation(model, *images[:2]), v.plot_reconstruction_history(images, {1: images})):
        assert isinstance(figure, Figure)


# --- latent space

def dots(figure):
    return figure.axes[0].collections[0]


def face_colors(figure):
    dots(figure).update_scalarmappable()
    return [to_hex(color) for color in dots(figure).get_facecolors()]


@pytest.mark.parametrize("latent_dim", [2, 3, 20])
def test_latent_space_draws_every_image_in_its_label_s_colour(latent_dim):
    model = make(latent_dim)
    figure = v.plot_latent_space(model, (IMAGES, LABELS))
    (ax,) = figure.axes
    mu = model.encode(IMAGES)[0].detach()
    if latent_dim > 2:  # numpy's singular value decomposition as the oracle, up to the sign of each axis
        centred = (mu - mu.mean(0)).numpy().astype("float64")
        _, s, vt = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(np.abs(dots(figure).get_offsets()), np.abs(mu.numpy() @ vt[:2].T), atol=1e-5)
        share = s**2 / (s**2).sum()
        assert f"PCA: 2 of {latent_dim} dimensions keep {share[:2].sum():.1%}" in ax.get_title()
        assert f"{share[0]:.1%}" in ax.get_xlabel() and f"{share[1]:.1%}" in ax.get_ylabel()
    else:
        np.testing.assert_allclose(dots(figure).get_offsets(), mu.numpy(), atol=1e-6)
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("$z_1$", "$z_2$", "")
    assert face_colors(figure) == [v.DIGIT_COLORS[k] for k in LABELS]
    legend = [text.get_text() for text in ax.get_legend().texts]
    assert legend == [*map(str, range(10)), "95% of\nthe prior"]
    assert sorted(text.get_text() for text in ax.texts) == [str(k) for k in range(10)]


def test_latent_space_of_one_dimension_has_a_row_per_label():
    model = make(1)
    figure = v.plot_latent_space(model, (IMAGES, LABELS))
    x, y = dots(figure).get_offsets().T
    np.testing.assert_allclose(x, model.encode(IMAGES)[0].detach()[:, 0], atol=1e-6)
    assert (np.round(y) == LABELS.numpy()).all() and labels_of(figure) == [str(k) for k in range(10)]


def test_names_of_classes_in_one_place_do_not_cover_each_other():
    figure = v.plot_latent_space(make(2), (IMAGES[:12].repeat(2, 1, 1, 1), torch.arange(2).repeat_interleave(12)))
    (a, b), points = (np.array(text.xy) for text in figure.axes[0].texts), dots(figure).get_offsets()
    assert np.hypot(*(a - b)) > 0.05 * np.ptp(points, axis=0).max()


def test_latent_space_names_only_the_labels_that_are_there():
    figure = v.plot_latent_space(make(2), (IMAGES[:4], torch.tensor([3, 3, 7, 3])))
    assert [text.get_text() for text in figure.axes[0].get_legend().texts][:-1] == ["3", "7"]
    assert face_colors(figure) == [v.DIGIT_COLORS[k] for k in (3, 3, 7, 3)]  # a digit keeps its colour


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("data", [IMAGES, (IMAGES, None), IMAGES.numpy(), (255 * IMAGES).to(torch.uint8), IMAGES.flatten(1)],
                         ids=["tensor", "pair", "array", "bytes", "rows"])
def test_latent_space_without_labels_has_one_colour(latent_dim, data):
    figure = v.plot_latent_space(make(latent_dim), data)
    (ax,) = figure.axes
    assert len(dots(figure).get_offsets()) == 23 and len(set(face_colors(figure))) == 1
    assert not ax.texts and ax.get_ylabel() != "label"
    if latent_dim > 1: assert [text.get_text() for text in ax.get_legend().texts] == ["95% of\nthe prior"]
    else: assert not ax.get_legend() and not len(ax.get_yticks())


@pytest.mark.parametrize("labels", [torch.tensor([3, 42, -7] * 7 + [3, 42]), np.array([3, 42, -7] * 7 + [3, 42], "int16"),
                                    [3, 42, -7] * 7 + [3, 42], torch.tensor([3, 42, -7] * 7 + [3, 42])[:, None],
                                    torch.tensor([3.0, 42.0, -7.0] * 7 + [3.0, 42.0])], ids=["tensor", "int16", "list", "column", "floats"])
def test_latent_space_labels_may_be_any_numbers(labels):
    figure = v.plot_latent_space(make(2), (IMAGES, labels))
    legend = [float(text.get_text()) for text in figure.axes[0].get_legend().texts[:-1]]
    assert legend == [-7, 3, 42]
    assert face_colors(figure) == [dict(zip([-7, 3, 42], v.DIGIT_COLORS))[int(k)] for k in np.ravel(labels)]


@pytest.mark.parametrize("K", [1, 9, 10, 11, 13, 20, 21, 26, 100])
@pytest.mark.parametrize("start", [0, 1000])
def test_as_many_colours_as_classes(K, start):
    """Named one by one up to 20 classes, beyond by a colour bar."""
    labels = start + torch.arange(4 * K) % K
    figure = v.plot_latent_space(make(2), (torch.rand(4 * K, 784, generator=seeded()), labels))
    color_of = dict(zip(labels.tolist(), face_colors(figure)))
    assert face_colors(figure) == [color_of[k] for k in labels.tolist()] and len(set(color_of.values())) == K
    if K <= 10 and start: assert list(color_of.values()) == v.DIGIT_COLORS[:K]
    if K > 10: assert [color_of[start], color_of[start + K - 1]] == [to_hex(mpl.colormaps["turbo"](end)) for end in (0.0, 1.0)]
    ax, *bar = figure.axes
    names = [text.get_text() for text in ax.get_legend().texts[:-1]]
    if K <= 20:
        assert not bar and names == [str(start + k) for k in range(K)]
        assert sorted(text.get_text() for text in ax.texts) == sorted(names)
    else:
        assert not names and not ax.texts
        figure.canvas.draw()
        marks = zip(bar[0].get_yticks(), [int(text.get_text()) for text in bar[0].get_yticklabels()])
        assert all(name == start + place for place, name in marks) and 5 <= len(bar[0].get_yticks()) <= 10
        shown = dots(figure).get_cmap()(dots(figure).norm(np.arange(K)))
        assert list(map(to_hex, shown)) == [color_of[start + k] for k in range(K)]


def test_latent_space_of_many_classes_in_one_dimension():
    figure = v.plot_latent_space(make(1), (torch.rand(60, 784, generator=seeded()), 3 * torch.arange(60)))
    (ax,) = figure.axes
    assert (np.round(dots(figure).get_offsets()[:, 1]) == np.arange(60)).all() and len(ax.get_yticks()) <= 20
    assert [int(name) for name in labels_of(figure)] == [3 * int(place) for place in ax.get_yticks()]


def test_latent_space_takes_a_stream_of_batches_and_a_data_set():
    pairs = TensorDataset(IMAGES, LABELS)
    for data in (pairs, DataLoader(pairs, 5)):
        figure = v.plot_latent_space(make(2), data)
        np.testing.assert_allclose(dots(figure).get_offsets(), posterior_mean(make(2), IMAGES), atol=1e-6)
        assert face_colors(figure) == [v.DIGIT_COLORS[k] for k in LABELS]


@pytest.mark.parametrize("latent_dim", [1, 2, 20])
def test_latent_space_of_a_single_image(latent_dim):
    for data in ((IMAGES[:1], LABELS[:1]), IMAGES[:1], IMAGES[0]):
        figure = v.plot_latent_space(make(latent_dim), data)
        assert "nan" not in figure.axes[0].get_title() and len(dots(figure).get_offsets()) == 1


def test_the_circle_holds_95_percent_of_the_prior():
    figure = v.plot_latent_space(make(2), (IMAGES, LABELS))
    (circle,) = figure.axes[0].lines
    radius = np.hypot(*circle.get_data())
    assert radius.std() < 1e-6
    inside = torch.randn(200_000, 2, generator=seeded()).norm(dim=1) < radius.mean()
    assert inside.double().mean().item() == pytest.approx(0.95, abs=0.003)


class Other(nn.Module):
    """Three distributions and nothing else: a prior of one's choice, z the mean of the pixels' halves."""

    def __init__(self, prior, D=64):
        super().__init__()
        self.given, self.W = prior, nn.Parameter(torch.eye(2).repeat_interleave(D // 2, 0))  # (D, 2)

    @property
    def prior(self): return self.given
    def posterior(self, x): return Independent(Normal(2 * x.flatten(1) @ self.W / len(self.W), torch.full((2,), 0.1)), 1)
    def likelihood(self, z): return Independent(Normal(z @ self.W.mT, torch.ones(len(self.W))), 1)


STANDARD = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
SHIFTED = Independent(Normal(torch.tensor([0.0, 1.0]), torch.ones(2)), 1)
WIDER = Independent(Normal(torch.zeros(2), torch.full((2,), 1.1)), 1)
MIXTURE = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(torch.tensor([[0.5, 0], [-0.5, 0]]), torch.ones(2, 2) / 9), 1))


@pytest.mark.parametrize("prior, standard", [(STANDARD, True), (SHIFTED, False), (WIDER, False), (MIXTURE, False)],
                         ids=["standard", "shifted", "wider", "mixture"])
def test_the_circle_is_drawn_for_a_standard_normal_prior_only(prior, standard):
    images = torch.rand(30, 64, generator=seeded())
    figure = v.plot_latent_space(Other(prior), images)
    np.testing.assert_allclose(dots(figure).get_offsets(), images.view(30, 2, 32).mean(2), atol=1e-6)
    assert len(figure.axes[0].lines) == standard and bool(figure.axes[0].get_legend()) is standard


def test_samples_come_from_the_model_s_own_prior():
    z = v.generate_samples(Other(MIXTURE), 2000, seeded()).view(-1, 2, 32).mean(2)
    assert z[:, 0].abs().mean() == pytest.approx(0.5, abs=0.02) and z[:, 1].std() == pytest.approx(1 / 9, abs=0.01)


MACHADO = {  # Machado et al. (2009), severity 1.0, on linear RGB
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]}


@pytest.mark.parametrize("eye", MACHADO)
def test_the_ten_colours_stay_apart_for_every_eye(eye):
    """Euclidean distance in Oklab; 0.05 is more than twice what tab10 keeps for its worst eyes."""
    lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]]
    lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099], [0.0259040371, 0.7827717662, -0.8086757660]]

    def smallest(colors):
        rgb = np.array([mpl.colors.to_rgb(c) for c in colors])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055)**2.4)
        seen = np.cbrt(np.clip(linear @ np.transpose(MACHADO[eye]), 0, 1) @ np.transpose(lms)) @ np.transpose(lab)
        return min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])

    assert len(set(v.DIGIT_COLORS)) == 10 and smallest(v.DIGIT_COLORS) > 0.05
    if eye in ("protanopia", "deuteranopia"): assert smallest(mpl.colormaps["tab10"].colors) < 0.025


# --- manifold and interpolation

@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_manifold_is_the_decoder_at_the_prior_s_quantiles(n):
    model, normal = make(2), Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    figure = v.plot_manifold(model, n)
    grid, ax = drawn(figure), figure.axes[0]
    assert grid.shape == (n * 28, n * 28)
    for row, column in {(0, 0), (0, n - 1), (n // 2, n // 3), (n - 1, 0)}:
        p = torch.tensor([(column + 0.5) / n, 1 - (row + 0.5) / n], dtype=torch.float64)  # z_1 to the right, z_2 up
        expected = model.decode(normal.icdf(p).float()[None]).detach().view(28, 28)
        torch.testing.assert_close(cell(grid, row, column, gap=0), expected, rtol=1e-4, atol=1e-5)
    for ticks, names, z in ((ax.get_xticks(), ax.get_xticklabels(), lambda t: (t + 0.5) / (28 * n)),
                            (ax.get_yticks(), ax.get_yticklabels(), lambda t: 1 - (t + 0.5) / (28 * n))):
        for tick, name in zip(ticks, names):
            p = torch.tensor(z(tick), dtype=torch.float64)
            assert normal.icdf(p).item() == pytest.approx(float(name.get_text()), abs=1e-3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 500))
def test_prior_quantiles_are_equal_steps_of_probability(n):
    q = v.prior_quantiles(n).double()
    p = Normal(torch.zeros((), dtype=torch.float64), 1.0).cdf(q)
    torch.testing.assert_close(p, (torch.arange(n, dtype=torch.float64) + 0.5) / n, rtol=0, atol=1e-6)
    torch.testing.assert_close(q, -q.flip(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (28, 28), (784,), (1, 1, 28, 28)])
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_interpolation_is_straight_in_latent_space(shape, steps):
    model, (a, b) = make(), (image.reshape(shape) for image in IMAGES[:2])
    mu = model.encode(IMAGES[:2])[0]
    path = v.interpolate(model, a, b, steps).view(-1, 1, 28, 28)
    t = torch.arange(steps)[:, None] / (steps - 1)
    torch.testing.assert_close(path.flatten(1), model.decode((1 - t) * mu[0] + t * mu[1]).detach())
    torch.testing.assert_close(path[[0, -1]], reconstruct(model, IMAGES[:2]))
    figure = v.plot_interpolation(model, a, b, steps)
    grid = drawn(figure)
    assert labels_of(figure) == ["latent space", "pixels"] and grid.shape == (2 * 30 - 2, steps * 30 - 2)
    for k in range(steps):
        torch.testing.assert_close(cell(grid, 0, k), path[k, 0])
        torch.testing.assert_close(cell(grid, 1, k), (1 - t[k]) * IMAGES[0, 0] + t[k] * IMAGES[1, 0])


# --- any model, any shape

class Conv(nn.Module):
    """A stranger's convolutional network: it says neither latent_dim nor image_shape."""

    def __init__(self, channels=1):
        super().__init__()
        self.down, self.mean, self.log_variance = nn.Conv2d(channels, 4, 4, 4), nn.Linear(24, 2), nn.Linear(24, 2)
        self.up, self.out = nn.Linear(2, 24), nn.ConvTranspose2d(4, channels, 4, 4)

    def encode(self, x):
        h = self.down(x).relu().flatten(1)
        return self.mean(h), self.log_variance(h)

    def decode(self, z): return self.out(self.up(z).relu().view(-1, 4, 2, 3)).sigmoid()


def fitted(model, images):
    fit(model, images, epochs=1, batch_size=16, device="cpu", progress=False)
    return model


def some(shape, n=16):
    return torch.rand(n, *shape, generator=seeded())


SHAPES = [(1, 8, 12), (8, 12), (3, 8, 12), (3, 12, 12), (1, 32, 128)]
ANY = {**{f"VAE {s}": (s, lambda s=s: fitted(make(2, math.prod(s)), some(s))) for s in SHAPES},
       **{f"conv {s}": (s, lambda s=s: fitted(seeded_conv(s[0]), some(s))) for s in [(1, 8, 12), (3, 8, 12)]},
       "PPCA": ((1, 8, 12), lambda: fitted(linear(96), some((1, 8, 12)))), "PPCA 3": ((3, 8, 12), lambda: fitted(linear(288), some((3, 8, 12))))}


def seeded_conv(channels):
    torch.manual_seed(0)
    return Conv(channels)


def linear(D):
    W = 0.1 * torch.randn(D, 2, generator=seeded()) / math.sqrt(2)
    return PPCA(W, torch.full((D,), 0.5), 0.1)


def as_colors(images):
    "The images that a picture should show, (N, 3, H, W)."
    images = images if images.ndim == 4 else images[:, None]
    return images.expand(-1, 3, -1, -1)


@pytest.mark.parametrize("shape, build", ANY.values(), ids=ANY)
def test_every_picture_of_any_model_in_the_shape_of_its_data(shape, build):
    model, images = build(), some(shape, 5)
    size, z = shape[-2:], posterior_mean(model, images)

    def shown(figure, rows, gap=2, at=(0, 0)):
        "Rows of images, cell by cell, and nothing but blanks around them."
        grid = colors(figure)
        for i, row in enumerate(rows):
            for j, image in enumerate(as_colors(row)):
                torch.testing.assert_close(cell(grid, i, j, gap, size), image.clamp(0, 1), rtol=1e-4, atol=1e-5)
        assert grid.isfinite().sum() == 3 * math.prod(size) * sum(map(len, rows))

    recon = decode(model, z).reshape(images.shape)
    shown(v.plot_reconstructions(model, images), [images, recon])
    shown(v.plot_reconstructions(model, images, n=5, columns=3), [images[:3], recon[:3], images[3:], recon[3:]])
    shown(v.plot_reconstruction_history(images, {1: recon}), [images, recon])
    shown(v.plot_grid(images, 5), [images])
    samples = v.generate_samples(model, 7, seeded(3))
    assert samples.shape == (7, *shape)
    shown(v.plot_samples(model, 7, seed=3, columns=4), [samples[:4], samples[4:]])
    path = v.interpolate(model, images[0], images[1], 4)
    assert path.shape == (4, *shape)
    t = torch.linspace(0, 1, 4).view(4, *[1] * len(shape))
    shown(v.plot_interpolation(model, images[0], images[1], 4), [path, (1 - t) * images[0] + t * images[1]])
    q = v.prior_quantiles(2)
    page = [decode(model, torch.tensor([[q[0], y], [q[1], y]])).reshape(2, *shape) for y in (q[1], q[0])]
    shown(v.plot_manifold(model, 2), page, gap=0)
    np.testing.assert_allclose(dots(v.plot_latent_space(model, images)).get_offsets(), z, atol=1e-5)


@pytest.mark.parametrize("shape, build", ANY.values(), ids=ANY)
def test_one_image_is_enough(shape, build):
    model, images = build(), some(shape, 2)
    both, one = v.plot_reconstructions(model, images, 1), v.plot_reconstructions(model, images[:1])
    alone = [images[0][None] if len(shape) == 2 else images[0]]
    for figure in (one, *(v.plot_reconstructions(model, x) for x in alone)):
        assert torch.equal(colors(figure).nan_to_num(-1), colors(both).nan_to_num(-1))
    for ends in ((images[:1], images[1:]), (images[0].flatten(), images[1].flatten())):
        for plot in (v.interpolate, lambda *a: colors(v.plot_interpolation(*a)).nan_to_num(-1)):
            torch.testing.assert_close(plot(model, *ends), plot(model, *images))


def test_an_unfitted_stranger_s_images_are_drawn():
    model, images = seeded_conv(1), some((1, 8, 12), 3)
    for x in (images, images[0]): assert colors(v.plot_reconstructions(model, x)).shape[1:] == (2 * 10 - 2, len(x) * 14 - 2)
    assert v.interpolate(model, *images[:2]).shape == (10, 1, 8, 12)
    assert colors(v.plot_interpolation(model, *images[:2])).shape[1:] == (18, 138)
    assert len(dots(v.plot_latent_space(model, images)).get_offsets()) == 3


def test_rows_take_the_shape_of_the_images_that_are_given():
    """A model that knows no shape is asked about images that have one."""
    images = some((1, 4, 36), 3)  # 144 numbers, as in 12 x 12
    model = make(2, 144)
    assert v.generate_samples(model, 3).shape == v.interpolate(model, *images[:2], 3).shape == (3, 144)
    assert colors(v.plot_interpolation(model, *images[:2], 3)).shape[1:] == (2 * 6 - 2, 3 * 38 - 2)
    assert colors(v.plot_reconstructions(model, images)).shape[1:] == (2 * 6 - 2, 3 * 38 - 2)
    assert colors(v.plot_samples(model, 1)).shape[1:] == (12, 12)  # only here is there nothing to go by
    assert colors(v.plot_interpolation(model, *images.flatten(1)[:2], 3)).shape[1:] == (26, 40)
    model.image_shape = (1, 4, 36)
    assert colors(v.plot_samples(model, 1)).shape[1:] == (4, 36)
    assert colors(v.plot_reconstructions(model, images.flatten(1))).shape[1:] == (10, 112)


@pytest.mark.parametrize("D, drawable", [(49, False), (64, True), (81, True), (80, False), (1, False), (4096, True)])
def test_rows_are_squares_from_8_by_8_on(D, drawable):
    rows = torch.rand(2, D)
    if not drawable:
        with pytest.raises(ValueError, match=f"rows of {D} numbers, not images"): v.plot_grid(rows)
    else: assert torch.equal(v.image_grid(rows, gap=0), v.image_grid(rows.view(2, math.isqrt(D), -1), gap=0))


def test_the_grid_of_wide_images_is_no_band():
    for shape in ((1, 10, 90), (3, 10, 90), (90, 10)):
        height, width = v.image_grid(torch.rand(60, *shape), gap=0).shape[-2:]
        assert 0.4 < height / width < 2.5


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 9), h=st.integers(1, 4), w=st.integers(1, 4), gap=st.integers(0, 3), columns=st.none() | st.integers(1, 9))
def test_a_grid_in_colour_is_the_grids_of_its_channels(n, h, w, gap, columns):
    images = torch.rand(n, 3, h, w, generator=seeded(n))
    grid = v.image_grid(images, columns, gap).nan_to_num(-1)
    for i in range(3): assert torch.equal(grid[i], v.image_grid(images[:, i:i + 1], columns, gap).nan_to_num(-1))


def test_colours_reach_the_page_and_gaps_do_not(tmp_path):
    images = torch.zeros(3, 3, 8, 8)
    for i in range(3): images[i, i] = 1  # red, green, blue
    v.plot_grid(images, 2).savefig(tmp_path / "grid.png")
    page = plt.imread(tmp_path / "grid.png")[..., :3]
    found, counts = np.unique(page.reshape(-1, 3), axis=0, return_counts=True)
    area = {tuple(color): count for color, count in zip(found.tolist(), counts)}
    assert set(area) == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)}
    assert area[1, 0, 0] == area[0, 1, 0] == area[0, 0, 1] == (4 * 8)**2


@pytest.mark.parametrize("images, plain", [(IMAGES.numpy(), IMAGES), ((IMAGES > 0.5).numpy(), (IMAGES > 0.5).float()),
                                           ((255 * IMAGES).to(torch.uint8), (255 * IMAGES).to(torch.uint8) / 255),
                                           (IMAGES.double(), IMAGES), (IMAGES.clone().requires_grad_(), IMAGES)])
def test_a_grid_takes_arrays_and_bytes(images, plain):
    assert torch.equal(drawn(v.plot_grid(images)).nan_to_num(-1), drawn(v.plot_grid(plain)).nan_to_num(-1))


# --- values outside [0, 1]

def test_values_that_overshoot_are_drawn_as_black_and_white(caplog):
    images = IMAGES.clone()
    images[:, :, :2, 0], images[:, :, :2, 1] = -0.7, 1.9  # a few, far out
    assert torch.equal(drawn(v.plot_grid(images)).nan_to_num(-1), drawn(v.plot_grid(images.clamp(0, 1))).nan_to_num(-1))
    assert not caplog.records  # matplotlib has nothing to say about it


@settings(deadline=None, max_examples=30)
@given(out=st.floats(0, 0.4), below=st.booleans())
def test_the_limit_is_a_root_mean_square(out, below):
    images = torch.full((2, 1, 9, 9), -out if below else 1 + out)
    if out <= v.CLIPPING - 1e-6: assert drawn(v.plot_grid(images, gap=0)).unique().tolist() == [float(not below)]
    if out >= v.CLIPPING + 1e-6:
        with pytest.raises(ValueError, match="too far from"): v.plot_grid(images)


def test_a_few_values_far_out_count_by_their_squares():
    images = torch.full((1, 1, 10, 10), 0.5)
    images[0, 0, 0, :5] = 2.0  # 5 of 100 pixels: moved by 0.05 on average, by 0.22 in root mean square
    with pytest.raises(ValueError, match="too far from"): v.plot_grid(images)


def test_standardized_images_of_a_gaussian_model_are_not_drawn_and_their_map_is():
    model, x = linear(64), (some((64,), 40) - 0.5) / 0.29
    for plot in (lambda: v.plot_reconstructions(model, x), lambda: v.plot_interpolation(model, x[0], x[1])):
        with pytest.raises(ValueError, match=r"holds values from .* too far from \[0, 1\]"): plot()
    assert len(dots(v.plot_latent_space(model, x)).get_offsets()) == 40


# --- numbers that are no images

@pytest.mark.parametrize("shape", [(8,), (1, 64)], ids=["table", "signals"])
def test_tables_and_signals_have_losses_a_map_and_numbers(shape):
    x = some(shape)
    model = make(2, math.prod(shape))
    history = fit(model, x, x, epochs=1, device="cpu", progress=False)
    assert len(v.plot_losses(history).axes) == 3
    assert len(dots(v.plot_latent_space(model, (x, torch.arange(16) % 3))).get_offsets()) == 16
    assert v.generate_samples(model, 4).shape == v.interpolate(model, x[0], x[1], 4).shape == (4, *shape)
    assert reconstruct(model, x).shape == x.shape
    for plot in (lambda: v.plot_samples(model), lambda: v.plot_reconstructions(model, x), lambda: v.plot_manifold(model),
                 lambda: v.plot_interpolation(model, x[0], x[1]), lambda: v.plot_reconstruction_history(x, {1: x})):
        with pytest.raises(ValueError, match="(rows of 8|signals of 64) numbers, not images"): plot()


# --- errors

REFUSED = {
    "history without an epoch": (lambda: v.plot_losses({"train_loss": []}), "history must hold .* at least one epoch"),
    "history that is none": (lambda: v.plot_losses([1.0, 2.0]), "history must hold"),
    "too few pixels": (lambda: v.plot_reconstructions(make(), torch.rand(2, 100)), "images must have input_dim = 784 .* not 100"),
    "values": (lambda: v.plot_reconstructions(make(), 2 * IMAGES), r"images must hold finite values in \[0, 1\]"),
    "n": (lambda: v.plot_reconstructions(make(), IMAGES, n=0), "n must be a whole number of at least 1, not 0"),
    "columns": (lambda: v.plot_reconstructions(make(), IMAGES, columns=0), "columns must be a whole number of at least 1, not 0"),
    "no images to draw": (lambda: v.plot_reconstructions(make(input_dim=10), torch.rand(2, 10)), "model makes rows of 10 numbers, not images"),
    "no snapshots": (lambda: v.plot_reconstruction_history(IMAGES, {}), "snapshots must hold .* at least one epoch"),
    "other snapshots": (lambda: v.plot_reconstruction_history(IMAGES, {5: IMAGES[:2]}), r"snapshots\[5\] must have the shape of images"),
    "num_samples": (lambda: v.generate_samples(make(), 0), "num_samples must be a whole number of at least 1, not 0"),
    "num_samples of the plot": (lambda: v.plot_samples(make(), -3), "num_samples must be .* not -3"),
    "num_samples a float": (lambda: v.plot_samples(make(), 2.5), "num_samples must be .* not 2.5"),
    "sample columns": (lambda: v.plot_samples(make(), 4, columns=0), "columns must be .* not 0"),
    "samples of a table": (lambda: v.plot_samples(make(input_dim=8), 4), "model makes rows of 8 numbers, not images"),
    "samples of a table with 49 columns": (lambda: v.plot_samples(make(input_dim=49), 4), "model makes rows of 49 numbers, not images"),
    "samples of signals": (lambda: v.plot_samples(make(2, 64, (1, 64)), 4), "model makes signals of 64 numbers, not images"),
    "reconstructions of signals": (lambda: v.plot_reconstructions(make(2, 64, (1, 64)), torch.rand(5, 1, 64)), "model makes signals of 64"),
    "manifold of a table": (lambda: v.plot_manifold(make(2, 8), 3), "model makes rows of 8 numbers, not images"),
    "interpolation of a table": (lambda: v.plot_interpolation(make(2, 8), *torch.rand(2, 8)), "model makes rows of 8 numbers, not images"),
    "history of a table": (lambda: v.plot_reconstruction_history(torch.rand(3, 8), {1: torch.rand(3, 8)}), "images holds rows of 8 numbers"),
    "grid of signals": (lambda: v.plot_grid(torch.rand(3, 1, 100)), "images holds signals of 100 numbers, not images"),
    "grid of two channels": (lambda: v.plot_grid(torch.rand(3, 2, 9, 9)), r"images holds an array of shape \(3, 2, 9, 9\), not images"),
    "channels last": (lambda: v.plot_grid(torch.rand(2, 9, 9, 3)), r"array of shape \(2, 9, 9, 3\), .*permute\(0, 3, 1, 2\)"),
    "grid of nothing": (lambda: v.plot_grid(torch.rand(0, 1, 9, 9)), r"images holds an array of shape \(0, 1, 9, 9\)"),
    "grid of one number": (lambda: v.image_grid(torch.tensor(0.5)), r"images holds an array of shape \(\)"),
    "grid of a list": (lambda: v.plot_grid([[0.5]]), "images must be a tensor or a NumPy array"),
    "grid with NaN": (lambda: v.plot_grid(IMAGES * torch.nan), "images must hold finite values, not NaN"),
    "negative gap": (lambda: v.image_grid(IMAGES, 3, -1), "gap must be a whole number of at least 0, not -1"),
    "grid columns": (lambda: v.image_grid(IMAGES, 2.5), "columns must be a whole number of at least 1, not 2.5"),
    "standardized": (lambda: v.plot_grid(3 * (IMAGES - 0.5)), r"images holds values from -1.5 to 1.5, too far from \[0, 1\].* plot_grid"),
    "levels": (lambda: v.plot_grid(255 * IMAGES), r"images holds values from 0.02\d* to 255, too far from"),
    "manifold of another prior": (lambda: v.plot_manifold(Other(SHIFTED), 3), "model must have a standard normal prior"),
    "seed": (lambda: v.plot_samples(make(), 4, seed=-1), "seed must be a whole number of at least 0, not -1"),
    "one hot": (lambda: v.plot_latent_space(make(2), (IMAGES, torch.eye(23))), r"one label for each image.*shape \(23, 23\).*argmax"),
    "a model that is none": (lambda: v.plot_samples(nn.Linear(2, 2)), "model must have prior, posterior and likelihood, or encode"),
    "a stranger's unknown latent space": (lambda: v.plot_samples(Conv()), "model must say its latent_dim .*train it with fit"),
    "too few labels": (lambda: v.plot_latent_space(make(2), (IMAGES, LABELS[:5])), r"data must pair .* 23 images .*5"),
    "latent pixels": (lambda: v.plot_latent_space(make(2), (torch.rand(3, 9), LABELS[:3])), "input_dim = 784 .* not 9"),
    "manifold of 20": (lambda: v.plot_manifold(make(20)), "model must have latent_dim = 2 .* not 20"),
    "manifold of no images": (lambda: v.plot_manifold(make(2), 0), "n must be .* not 0"),
    "interpolation pixels": (lambda: v.plot_interpolation(make(), IMAGES[0], torch.rand(9)), "image_b must have input_dim = 784 .* not 9"),
    "interpolation of a batch": (lambda: v.interpolate(make(), IMAGES[:2], IMAGES[0]), "image_a must be one image, not 2"),
    "one step": (lambda: v.plot_interpolation(make(), *IMAGES[:2], steps=1), "steps must be a whole number of at least 2, not 1"),
}


@pytest.mark.parametrize("call, sentence", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(call, sentence):
    before = dict(mpl.rcParams)
    with pytest.raises(ValueError, match=sentence) as error: call()
    assert "\n" not in str(error.value) and dict(mpl.rcParams) == before
