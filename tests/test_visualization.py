"""Pictures draw what they say, refuse what they cannot draw, and leave nothing behind."""
import json
import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Normal

from vae_nbdev import VAE, visualization as v

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def make(latent_dim=5, input_dim=784):
    torch.manual_seed(latent_dim)
    return VAE(input_dim, 16, latent_dim)


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
}


def drawn(figure):
    "The array that a grid figure shows, NaN where it is blank."
    (ax,) = figure.axes
    (image,) = ax.images
    assert image.get_clim() == (0, 1)
    return torch.from_numpy(np.ma.filled(image.get_array().astype("float32"), np.nan))


def cell(grid, row, column, gap=2, size=28):
    at = [i * (size + gap) for i in (row, column)]
    return grid[at[0]:at[0] + size, at[1]:at[1] + size]


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


def test_inference_restores_each_module_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval(), nn.Linear(1, 1))
    with pytest.raises(ZeroDivisionError), v.inference(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
        1 / 0
    assert [m.training for m in model] == [True, False, True] and model.training and torch.is_grad_enabled()


def test_a_notebook_shows_a_picture_once():
    """In a real kernel: without pyplot, with pyplot, and not at all where it is not a cell's last value."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    first = "import sys, torch\nfrom vae_nbdev import VAE, plot_samples\nmodel = VAE(784, 4, 2)\nplot_samples(model, 2)"
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
    per_row = min(n, columns or math.ceil(n**0.5))
    assert grid.shape == (math.ceil(n / per_row) * (h + gap) - gap, per_row * (w + gap) - gap)
    blank = grid.clone()
    for k, image in enumerate(images[:, 0]):
        y, x = k // per_row * (h + gap), k % per_row * (w + gap)
        assert torch.equal(grid[y:y + h, x:x + w], image)
        blank[y:y + h, x:x + w] = torch.nan
    assert blank.isnan().all()
    assert torch.equal(v.image_grid(images[:, 0], columns, gap).nan_to_num(-1), grid.nan_to_num(-1))


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


def test_reconstruct_decodes_the_posterior_mean_in_the_shape_of_the_images():
    model = make()
    mu, log_var = v.posterior(model, IMAGES)
    expected = model.encode(IMAGES)
    torch.testing.assert_close((mu, log_var), tuple(t.detach() for t in expected))
    for images in (IMAGES, IMAGES.flatten(1)):
        recon = v.reconstruct(model, images)
        assert recon.shape == images.shape and not recon.requires_grad
        torch.testing.assert_close(recon.flatten(1), model.decode(mu).detach())


def test_reconstruction_history_has_a_row_per_epoch():
    snapshots = {5: IMAGES[:3] / 2, 10: IMAGES[:3] / 4}
    figure = v.plot_reconstruction_history(IMAGES[:3], snapshots, title="three")
    grid = drawn(figure)
    for row, scale in enumerate((1, 2, 4)):
        for k in range(3): assert torch.equal(cell(grid, row, k), IMAGES[k, 0] / scale)
    assert labels_of(figure) == ["original", "epoch 5", "epoch 10"] and figure.axes[0].get_title() == "three"


def test_reconstruction_history_is_what_a_callback_of_fit_collects():
    from vae_nbdev import fit
    snapshots = {}

    def remember(epoch, model, history):
        if epoch % 2 == 0: snapshots[epoch] = v.reconstruct(model, IMAGES[:4])

    watched, alone = make(2), make(2)
    fit(watched, IMAGES, epochs=4, batch_size=5, device="cpu", progress=False, on_epoch_end=remember)
    fit(alone, IMAGES, epochs=4, batch_size=5, device="cpu", progress=False)
    for a, b in zip(watched.parameters(), alone.parameters()): assert torch.equal(a, b)
    assert labels_of(v.plot_reconstruction_history(IMAGES[:4], snapshots)) == ["original", "epoch 2", "epoch 4"]
    torch.testing.assert_close(snapshots[4], v.reconstruct(watched, IMAGES[:4]))


# --- samples

@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 61, 64, 100])
def test_samples_of_any_count(count):
    model = make()
    grid = drawn(v.plot_samples(model, count, seed=4))
    samples = v.generate_samples(model, count, seeded(4))
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


def test_samples_that_are_no_squares_stay_rows():
    assert v.generate_samples(make(input_dim=10), 4).shape == (4, 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_in_another_precision(dtype):
    model = make(2).to(dtype)
    assert v.generate_samples(model, 2).dtype == v.reconstruct(model, IMAGES).dtype == torch.float32
    assert torch.equal(cell(drawn(v.plot_reconstructions(model, IMAGES)), 0, 0), IMAGES[0, 0])
    v.plot_latent_space(model, (IMAGES, LABELS)), v.plot_manifold(model, 3), v.plot_interpolation(model, *IMAGES[:2])


@pytest.mark.parametrize("device", DEVICES)
def test_models_and_images_on_any_device(device):
    model, images, labels = make(2).to(device), IMAGES.to(device), LABELS.to(device)
    reference = make(2)
    pairs = [(v.generate_samples(model, 4, seeded()), v.generate_samples(reference, 4, seeded())),
             (v.reconstruct(model, images), v.reconstruct(reference, IMAGES)),
             (v.interpolate(model, *images[:2]), v.interpolate(reference, *IMAGES[:2]))]
    for ours, theirs in pairs: torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    for figure in (v.plot_reconstructions(model, images), v.plot_latent_space(model, (images, labels)), v.plot_manifold(model, 3),
                   v.plot_interpolation(model, *images[:2]), v.plot_reconstruction_history(images, {1: images})):
        assert isinstance(figure, Figure)


# --- latent space

def dots(figure):
    return figure.axes[0].collections[0]


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
    dots(figure).update_scalarmappable()
    assert [to_hex(c) for c in dots(figure).get_facecolors()] == [v.DIGIT_COLORS[k] for k in LABELS]
    legend = [text.get_text() for text in ax.get_legend().texts]
    assert legend == [*map(str, range(10)), "95% of\nthe prior"]
    assert sorted(text.get_text() for text in ax.texts) == [str(k) for k in range(10)]


def test_latent_space_of_one_dimension_has_a_row_per_label():
    model = make(1)
    figure = v.plot_latent_space(model, (IMAGES, LABELS))
    x, y = dots(figure).get_offsets().T
    np.testing.assert_allclose(x, model.encode(IMAGES)[0].detach()[:, 0], atol=1e-6)
    assert (np.round(y) == LABELS.numpy()).all() and labels_of(figure) == [str(k) for k in range(10)]


def test_latent_space_names_only_the_labels_that_are_there():
    figure = v.plot_latent_space(make(2), (IMAGES[:4], torch.tensor([3, 3, 7, 3])))
    assert [text.get_text() for text in figure.axes[0].get_legend().texts][:-1] == ["3", "7"]


@pytest.mark.parametrize("latent_dim", [1, 2, 20])
def test_latent_space_of_a_single_image(latent_dim):
    assert "nan" not in v.plot_latent_space(make(latent_dim), (IMAGES[:1], LABELS[:1])).axes[0].get_title()


def test_the_circle_holds_95_percent_of_the_prior():
    figure = v.plot_latent_space(make(2), (IMAGES, LABELS))
    (circle,) = figure.axes[0].lines
    radius = np.hypot(*circle.get_data())
    assert radius.std() < 1e-6
    inside = torch.randn(200_000, 2, generator=seeded()).norm(dim=1) < radius.mean()
    assert inside.double().mean().item() == pytest.approx(0.95, abs=0.003)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 30), dims=st.integers(1, 8), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_principal_components_against_numpy(n, dims, k, seed):
    k = min(k, dims)
    z = torch.randn(n, dims, generator=seeded(seed), dtype=torch.float64) * torch.arange(1, dims + 1)
    directions, share = v.principal_components(z, k)
    torch.testing.assert_close(directions.T @ directions, torch.eye(k, dtype=torch.float64))
    s = np.linalg.svd((z - z.mean(0)).numpy(), compute_uv=False)
    expected = np.zeros(dims)
    expected[:len(s)] = s**2 / max((s**2).sum(), 1e-300)
    np.testing.assert_allclose(share, expected[:k], atol=1e-9)
    kept = ((z - z.mean(0)) @ directions).square().sum(0) / (z - z.mean(0)).square().sum().clamp_min(1e-300)
    torch.testing.assert_close(share, kept, rtol=0, atol=1e-9)
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


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
    path = v.interpolate(model, a, b, steps)
    t = torch.arange(steps)[:, None] / (steps - 1)
    torch.testing.assert_close(path.flatten(1), model.decode((1 - t) * mu[0] + t * mu[1]).detach())
    torch.testing.assert_close(path[[0, -1]], v.reconstruct(model, IMAGES[:2]))
    figure = v.plot_interpolation(model, a, b, steps)
    grid = drawn(figure)
    assert labels_of(figure) == ["latent space", "pixels"] and grid.shape == (2 * 30 - 2, steps * 30 - 2)
    for k in range(steps):
        torch.testing.assert_close(cell(grid, 0, k), path[k, 0])
        torch.testing.assert_close(cell(grid, 1, k), (1 - t[k]) * IMAGES[0, 0] + t[k] * IMAGES[1, 0])


# --- errors

REFUSED = {
    "history without an epoch": (lambda: v.plot_losses({"train_loss": []}), "history must hold .* at least one epoch"),
    "history that is none": (lambda: v.plot_losses([1.0, 2.0]), "history must hold"),
    "too few pixels": (lambda: v.plot_reconstructions(make(), torch.rand(2, 100)), "images must have input_dim = 784 .* not 100"),
    "values": (lambda: v.plot_reconstructions(make(), 2 * IMAGES), r"images must hold finite values in \[0, 1\]"),
    "n": (lambda: v.plot_reconstructions(make(), IMAGES, n=0), "n must be a whole number of at least 1, not 0"),
    "columns": (lambda: v.plot_reconstructions(make(), IMAGES, columns=0), "columns must be a whole number of at least 1, not 0"),
    "no images to draw": (lambda: v.plot_reconstructions(make(input_dim=10), torch.rand(2, 10)), r"images must be grey .* not of shape \(2, 10\)"),
    "no snapshots": (lambda: v.plot_reconstruction_history(IMAGES, {}), "snapshots must hold .* at least one epoch"),
    "other snapshots": (lambda: v.plot_reconstruction_history(IMAGES, {5: IMAGES[:2]}), r"snapshots\[5\] must have the shape of images"),
    "num_samples": (lambda: v.generate_samples(make(), 0), "num_samples must be a whole number of at least 1, not 0"),
    "num_samples of the plot": (lambda: v.plot_samples(make(), -3), "num_samples must be .* not -3"),
    "num_samples a float": (lambda: v.plot_samples(make(), 2.5), "num_samples must be .* not 2.5"),
    "sample columns": (lambda: v.plot_samples(make(), 4, columns=0), "columns must be .* not 0"),
    "samples that are no images": (lambda: v.plot_samples(make(input_dim=10), 4), "images must be grey"),
    "no labels": (lambda: v.plot_latent_space(make(2), IMAGES), r"data must be a pair \(images, labels\)"),
    "labels None": (lambda: v.plot_latent_space(make(2), (IMAGES, None)), r"data must be a pair \(images, labels\)"),
    "too few labels": (lambda: v.plot_latent_space(make(2), (IMAGES, LABELS[:5])), r"data must pair .* 23 images .*5"),
    "latent pixels": (lambda: v.plot_latent_space(make(2), (torch.rand(3, 9), LABELS[:3])), "input_dim = 784 .* not 9"),
    "manifold of 20": (lambda: v.plot_manifold(make(20)), "model must have latent_dim = 2 .* not 20"),
    "manifold of no images": (lambda: v.plot_manifold(make(2), 0), "n must be .* not 0"),
    "interpolation pixels": (lambda: v.plot_interpolation(make(), IMAGES[0], torch.rand(9)), "image_b must have input_dim = 784 .* not 9"),
    "interpolation of a batch": (lambda: v.interpolate(make(), IMAGES[:2], IMAGES[0]), "image_a must have input_dim = 784 .* not 1568"),
    "one step": (lambda: v.plot_interpolation(make(), *IMAGES[:2], steps=1), "steps must be a whole number of at least 2, not 1"),
}


@pytest.mark.parametrize("call, sentence", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(call, sentence):
    before = dict(mpl.rcParams)
    with pytest.raises(ValueError, match=sentence) as error: call()
    assert "\n" not in str(error.value) and dict(mpl.rcParams) == before
