"""The figures of chapters 2 and 3 on the site, the bound and the two gradients: their numbers are the package's, and every hand reaches them."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vae_nbdev.elbo import expected_log_likelihood, gaussian_elbo, gaussian_kl, ppca_log_evidence, ppca_posterior
from vae_nbdev.explorables import linear_example, noise_example
from vae_nbdev.reparameterization import pathwise_gradient, score_function_gradient

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PAGES = {"bound": "02_elbo.html", "gradients": "03_reparameterization.html"}
SCRIPTS = "_static/explorables/explorables.css"  # a page beside them that is soon there
double = lambda values: torch.tensor(values, dtype=torch.double)
seeded = lambda seed: torch.Generator().manual_seed(seed)


def alive(window, name):
    "The figure, scrolled to and mounted."
    window.visit(PAGES[name])
    figure = window.locator(f"figure.explorable[data-name={name}]")
    figure.scroll_into_view_if_needed()
    figure.locator(".explorable-says").wait_for()
    return figure


def number(text):
    return float(text.replace("−", "-"))


def bars(figure):
    "The numbers beside the bars, by name."
    return {row.locator("span").first.inner_text(): number(row.locator("b").inner_text()) for row in figure.locator(".bound-row:not(.bound-scale)").all()}


def told(figure):
    "exact; mean and standard deviation of pathwise; those of the score function."
    return [number(n) for n in re.findall(r"−?[\d.]+\d", figure.locator("canvas[role=img]").get_attribute("aria-label"))]


def slide(figure, label):
    return figure.get_by_label(label)


# ------------------------------------------------------------------------------------------------ the numbers

def test_the_bound_in_the_browser_is_that_of_the_package(opener):
    """200 settings of observation, mean and width, three of them at the posterior."""
    window, file = opener(), linear_example()
    theta = file["W"], file["b"], file["sigma"]
    posterior, cov = ppca_posterior(file["x"], *theta)
    g = seeded(0)
    which = torch.randint(3, (200,), generator=g)
    mu, std = 5 * torch.rand(200, generator=g).double() - 2.5, 0.2 + 1.2 * torch.rand(200, generator=g).double()
    which[:3], mu[:3], std[:3] = torch.arange(3), posterior[:, 0], cov[0, 0].sqrt()
    window.visit(SCRIPTS)
    found = window.evaluate("""async settings => {
      const { terms } = await import("./bound.js"), { read } = await import("./load.js"), file = await read("./data/bound.safetensors");
      return settings.map(([n, mu, std]) => terms(file, file.x.data.slice(5 * n, 5 * n + 5), mu, std));
    }""", list(zip(which.tolist(), mu.tolist(), std.tolist())))
    x, q = file["x"][which], (mu[:, None], std[:, None, None] ** 2)
    wanted = {"evidence": ppca_log_evidence(x, *theta), "elbo": gaussian_elbo(x, *theta, *q), "reconstruction": expected_log_likelihood(x, *theta, *q),
              "kl": gaussian_kl(*q, torch.zeros(1).double(), torch.eye(1).double()), "gap": gaussian_kl(*q, posterior[which], cov)}
    for name, values in wanted.items():
        assert_close(double([answer[name] for answer in found]), values, rtol=1e-11, atol=1e-11, msg=lambda text: f"{name}: {text}")
    assert_close(wanted["elbo"] + wanted["gap"], wanted["evidence"])
    assert_close(double([[answer["posterior"]["mu"], answer["posterior"]["std"]] for answer in found]), torch.stack([posterior[which, 0], cov[0, 0].sqrt().expand(200)], 1))


def test_both_estimators_in_the_browser_are_those_of_the_package(opener):
    """200 settings of mean, width and constant, with thirty draws each."""
    window, g = opener(), seeded(1)
    noise = [torch.empty(30, 1).double().normal_(generator=seeded(k)) for k in range(200)]  # what the estimators draw
    mu, std, constant = 4 * torch.rand(200, generator=g).double() - 2, 0.3 + 0.7 * torch.rand(200, generator=g).double(), 5 * torch.rand(200, generator=g).double()
    window.visit(SCRIPTS)
    found = window.evaluate("""async settings => {
      const { estimates, exact, moments } = await import("./gradients.js");
      return settings.map(([noise, mu, std, constant]) => {
        const { pathwise, score } = estimates(noise, mu, std, constant), { mean, std: spread } = moments(score.mu), truth = exact(mu, std);
        return { pathwise: [pathwise.mu, pathwise.logVar], score: [score.mu, score.logVar], moments: [mean, spread], exact: [truth.mu, truth.logVar] };
      });
    }""", [[e[:, 0].tolist(), *setting] for e, *setting in zip(noise, mu.tolist(), std.tolist(), constant.tolist())])
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(80))
    for k, answer in enumerate(found):
        f = lambda z: (z * z.sin())[:, 0] + constant[k]
        q = mu[k:k + 1], 2 * std[k:k + 1].log()
        for name, estimator in {"pathwise": pathwise_gradient, "score": score_function_gradient}.items():
            gradients = torch.stack(estimator(f, *q, 30, generator=seeded(k)))[..., 0]
            assert_close(double(answer[name]), gradients, rtol=1e-10, atol=1e-11)
        assert_close(double(answer["moments"]), torch.stack([gradients[0].mean(), gradients[0].std()]))
        z = mu[k] + std[k] * points
        slope = z.sin() + z * z.cos()
        wanted = torch.stack([(weights * slope).sum(), (weights * slope * std[k] * points / 2).sum()]) / weights.sum()
        assert_close(double(answer["exact"]), wanted, rtol=1e-9, atol=1e-11)


def test_the_scale_of_the_draws_holds_them_all(opener):
    window, g = opener(), seeded(2)
    values = [(torch.randn(20, generator=g) * size).tolist() for size in (0.1, 1, 5, 20, 100)] + [[10.0], [-20.5], [0.0]]
    window.visit(SCRIPTS)
    found = window.evaluate("async values => { const { reach } = await import('./gradients.js'); return values.map(reach) }", values)
    for one, far in zip(values, found):
        most = max(map(abs, one))
        assert most <= far < max(2 * most, 10.1) and np.log2(far / 10) % 1 == 0


def test_the_bound_is_that_of_the_chapter_s_model():
    """The picture in the notebook is computed with the numbers of the file."""
    cells = ["".join(c["source"]) for c in json.loads((ROOT / "nbs/02_elbo.ipynb").read_text("utf-8"))["cells"]]
    model = next(c for c in cells if c.startswith("W = torch.tensor"))
    torch.set_default_dtype(torch.double)  # as the chapter does
    try:
        exec(model, space := {"torch": torch})
        exec(next(line for c in cells if "#| explorable: bound" in c for line in c.splitlines() if line.startswith("one = ")), space)
    finally: torch.set_default_dtype(torch.float)
    file, (x, W, b, sigma) = linear_example(), space["one"]
    for mine, its in zip((x, W, b, torch.tensor(sigma).double()), (file["x"][:1], file["W"], file["b"], file["sigma"])): assert_close(mine, its)


# ------------------------------------------------------------------------------------------------ hands

PLACES = """async ([name, mu, std]) => {
  const { frameOf } = await import("./_static/explorables/bound.js"), { density } = await import("./_static/explorables/bell.js");
  const { clientWidth } = document.querySelector("[data-name=bound] canvas"), { x, y } = frameOf(clientWidth);
  return [[x(mu), y(density(0, 0, std))], [x(mu + std), y(density(std, 0, std))], x(1) - x(0)];
}"""


def drag(window, canvas, start, by):
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + start[0], box["y"] + start[1]
    window.mouse.move(x, y)
    window.mouse.down()
    window.mouse.move(x + by / 2, y + 3)
    window.mouse.move(x + by, y + 3)
    window.mouse.up()


def test_dragging_moves_q_and_never_the_evidence(opener):
    window = opener()
    figure = alive(window, "bound")
    canvas, mean, width = figure.locator("canvas"), slide(figure, "Mean of q"), slide(figure, "Width of q")
    before, mu, std = bars(figure), number(mean.input_value()), number(width.input_value())
    top, side, unit = window.evaluate(PLACES, ["bound", mu, std])
    drag(window, canvas, top, unit)
    assert abs(number(mean.input_value()) - mu - 1) < 0.02 and number(width.input_value()) == std
    moved = bars(figure)
    drag(window, canvas, [side[0] + unit, side[1]], -0.2 * unit)
    assert abs(number(mean.input_value()) - mu - 1) < 0.02 and abs(number(width.input_value()) - std + 0.2) < 0.02
    wider = bars(figure)
    for one in (before, moved, wider):
        assert one["log p(x)"] == before["log p(x)"]
        assert abs(one["ELBO"] + one["+ gap, KL to the posterior"] - one["log p(x)"]) < 1e-9
        assert abs(one["reconstruction, E log p(x|z)"] - one["− KL to the prior"] - one["ELBO"]) < 1e-9
    assert len({one["ELBO"] for one in (before, moved, wider)}) == 3
    figure.get_by_role("combobox").select_option(index=1)
    assert bars(figure)["log p(x)"] != before["log p(x)"]


def test_keys_alone_close_the_gap(opener):
    window = opener()
    figure = alive(window, "bound")
    gap = lambda: bars(figure)["+ gap, KL to the posterior"]
    value = lambda label: number(slide(figure, label).input_value())
    posterior, cov = ppca_posterior(*linear_example().values())
    slide(figure, "Mean of q").focus()
    for _ in range(3): window.keyboard.press("PageUp")
    for label, wanted in {"Mean of q": posterior[0, 0].item(), "Width of q": cov[0, 0].sqrt().item()}.items():
        steps = round((wanted - value(label)) / 0.01)
        for _ in range(abs(steps)): window.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        window.keyboard.press("Tab")
    assert gap() < 0.01
    figure.locator("canvas").focus()
    address, mean, width = window.url, value("Mean of q"), value("Width of q")
    for key in ("ArrowRight", "ArrowUp"): window.keyboard.press(key)
    assert value("Mean of q") > mean and value("Width of q") > width and window.url == address
    slide(figure, "Mean of q").press("Home")
    jump = figure.get_by_role("button", name="Jump to the posterior")
    jump.press("Enter")
    assert gap() == 0, "with reduced motion it is there at once"
    slide(figure, "Mean of q").press("Home")
    window.emulate_media(reduced_motion="no-preference")
    row = figure.locator(".bound-row b").nth(2)
    assert number(jump.evaluate("(jump, row) => { jump.click(); return row.textContent }", row.element_handle())) > 0.5, "without, it flies"
    window.wait_for_function("row => row.textContent === '0.00'", arg=row.element_handle())


def test_a_constant_moves_the_scatter_of_one_estimator_alone(opener):
    window = opener()
    figure = alive(window, "gradients")
    assert number(slide(figure, "Mean of q").input_value()) == 0.5 and number(slide(figure, "Width of q").input_value()) == round(np.exp(-0.35), 1)  # the chapter's
    assert noise_example().shape == (500,)
    exact, path, path_spread, score, score_spread = told(figure)
    assert abs(path - exact) < 4 * path_spread / 10 and abs(score - exact) < 4 * score_spread / 10  # 100 draws
    slide(figure, "Added to f").press("End")
    raised = told(figure)
    assert raised[:3] == [exact, path, path_spread] and raised[4] > 3 * score_spread
    figure.get_by_role("button", name="New noise ε").click()
    other = told(figure)
    assert other[0] == exact and other[1] != path
    figure.get_by_role("button", name="by log σ²").click()
    assert told(figure)[0] != exact and figure.get_by_role("button", name="by log σ²").get_attribute("aria-pressed") == "true"
    slide(figure, "Draws").press("Home")
    assert told(figure)[1:3] != other[1:3]
    canvas = figure.locator("canvas[role=application]")
    for x in (0.25, 0.75):  # the bell lies below both curves
        mean = number(slide(figure, "Mean of q").input_value())
        box = canvas.bounding_box()
        drag(window, canvas, [x * box["width"], 150], -40)
        assert number(slide(figure, "Mean of q").input_value()) < mean - 0.5


# ------------------------------------------------------------------------------------------------ every reader

@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 360])
def test_a_figure_comes_alive_without_a_jump(opener, name, width):
    window, asked = opener(width), []
    window.on("request", lambda request: asked.append(request.url))
    window.visit(PAGES[name])
    figure = window.locator(f"figure.explorable[data-name={name}]")
    before = figure.bounding_box()["height"]
    assert not [url for url in asked if name in url.rpartition("/")[2]], "loaded before it is scrolled to"
    figure.scroll_into_view_if_needed()
    figure.locator(".explorable-says").filter(has_text=re.compile(r"\d")).wait_for()  # all is drawn and said
    assert figure.bounding_box()["height"] == before
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    inside = figure.locator(".explorable-place").bounding_box()
    for control in figure.locator("button, input, select").all():
        box = control.bounding_box()
        assert box["height"] >= 32 and inside["x"] <= box["x"] and box["x"] + box["width"] <= inside["x"] + inside["width"] + 0.5


@pytest.mark.parametrize("name", PAGES)
def test_one_line_is_spoken_and_the_theme_is_followed(opener, name):
    window = opener()
    window.clock.install(time=0)
    figure = alive(window, name)
    window.clock.pause_at(60_000)
    spoken = figure.locator("[aria-live=polite], [role=status], output:not([aria-hidden=true])")
    assert spoken.count() == 1
    was = spoken.inner_text()
    slide(figure, "Mean of q").press("End")
    window.clock.run_for(300)
    assert re.search(r"\d\.\d\d", was) and spoken.inner_text() == was, "not before the hand rests"
    window.clock.run_for(200)
    assert re.search(r"\d\.\d\d", spoken.inner_text()) and spoken.inner_text() != was
    drawn = lambda: figure.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")
    light = drawn()
    window.evaluate("document.body.dataset.theme = 'dark'")
    window.clock.run_for(100)
    assert drawn() != light


@pytest.mark.parametrize("name", PAGES)
def test_without_javascript_the_picture_stays(opener, name):
    window = opener(java_script_enabled=False)
    window.visit(PAGES[name])
    figure = window.locator(f"figure.explorable[data-name={name}]")
    assert figure.locator("img").is_visible() and len(figure.locator("img").get_attribute("alt")) > 50 and figure.locator("canvas").count() == 0
