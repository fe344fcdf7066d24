"""One slider over weights of the KL: the browser's encodings, decodings and numbers are those of the package."""

import pytest
import torch

from vae_nbdev import evaluate, explorables, pretrained
from vae_nbdev.data import binarize, load_mnist
from vae_nbdev.model import inference

pytestmark = pytest.mark.slow
PAGE, FIGURE = "12_objectives.html", "figure.explorable[data-name=beta]"

RUN = """async ([url, images, codes]) => {
  const { reconstruct } = await import("./beta.js"), { decode, encode } = await import("./matrix.js"), model = await (await import("./load.js")).read(url);
  return { mu: images.map(x => [...encode(model, x).mu]), logVar: images.map(x => [...encode(model, x).logVar]),
           back: images.map(x => [...reconstruct(model, x)]), drawn: codes.map(z => [...decode(model, z)]) };
}"""


@pytest.fixture(scope="module")
def page(browser, base):
    page = browser.new_page()
    page.goto(f"{base}_static/explorables/explorables.css")
    yield page
    page.close()


@pytest.fixture(scope="module")
def tests():
    return binarize(load_mnist("test")[0], generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exact(page, tmp_path_factory):
    "The models of the page with their weights as they are, beside those of 8 bits."
    folder = tmp_path_factory.mktemp("exact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorables, "FILES", {name: make for name, make in explorables.FILES.items() if name.startswith("beta-")})
        explorables.write_explorables(folder, bits=None)
    page.route("**/exact/*", lambda route: route.fulfill(path=folder / route.request.url.rpartition("/")[2]))
    return "./exact/"


@pytest.mark.parametrize("beta", explorables.BETAS)
def test_encodings_and_decodings_are_the_package_s(page, exact, tests, beta):
    """200 digits over all models, and as many codes: to 1e-5 with the weights as they are, close with 8 bits."""
    n, i = 34, explorables.BETAS.index(beta)
    x, z = tests[i * n:(i + 1) * n].flatten(1), torch.randn(n, 8, generator=torch.Generator().manual_seed(i))
    with inference(model := pretrained(f"mnist-beta-{beta}").double()):
        mu, log_var = model.encode(x.double())
        wanted = {"mu": mu, "logVar": log_var, "back": model.decode(mu), "drawn": model.decode(z.double())}
    for folder, most, mean in ((exact, 1e-5, 1e-6), ("./data/", 0.2, 0.02)):
        found = page.evaluate(RUN, [f"{folder}beta-{beta}.safetensors", x.int().tolist(), z.tolist()])
        for name, right in wanted.items():
            off = (torch.tensor(found[name]).double() - right).abs()
            assert off.max() < most and off.mean() < mean, (name, folder)


@pytest.fixture(scope="module")
def facts(page):
    return page.evaluate("async () => (await (await import('./load.js')).read('./data/beta.safetensors')).facts")


def test_rates_and_distortions_are_the_package_s(facts, tests):
    assert facts["betas"] == [*explorables.BETAS]
    for beta, rate, distortion in zip(facts["betas"], facts["rates"], facts["distortions"]):
        terms = evaluate(pretrained(f"mnist-beta-{beta}"), tests)
        assert rate == pytest.approx(terms["kl"], abs=1e-3) and distortion == pytest.approx(terms["reconstruction"], abs=1e-3)


def alive(opener, **options):
    page = opener(**options)
    page.visit(PAGE)
    page.locator(FIGURE).scroll_into_view_if_needed()
    page.wait_for_selector(f"{FIGURE}.is-alive")
    return page, page.locator(FIGURE)


def says(page, words):
    page.wait_for_function("([f, words]) => document.querySelector(f + ' [role=status]').textContent.includes(words)", arg=[FIGURE, words])


def test_the_slider_alone_walks_along_the_curve(opener, facts):
    page, figure = alive(opener)
    slider, canvas = figure.get_by_role("slider"), figure.locator("canvas").first
    slider.focus()
    page.keyboard.press("Home")
    for i, (beta, rate, distortion) in enumerate(zip(facts["betas"], facts["rates"], facts["distortions"])):
        assert slider.get_attribute("aria-valuetext") == f"{beta}" and slider.input_value() == f"{i}"
        wanted = f"rate {rate:.1f} and distortion {distortion:.1f} are {rate + distortion:.1f} nats"
        assert wanted in canvas.get_attribute("aria-label")
        if i in (0, 5): says(page, wanted)
        page.keyboard.press("ArrowRight")
    assert page.url.endswith(PAGE)


def test_a_model_is_fetched_when_it_is_wanted(opener):
    page = opener()
    asked = []
    page.on("request", lambda r: asked.append(r.url.rpartition("/")[2]))
    page.visit(PAGE)
    assert not [name for name in asked if "beta" in name]
    page.locator(FIGURE).scroll_into_view_if_needed()
    page.wait_for_selector(f"{FIGURE}.is-alive")
    assert len([name for name in asked if name.startswith("beta-")]) == 1
    with page.expect_request("**/beta-30.safetensors"): page.locator(FIGURE).get_by_role("slider").focus()
    assert len([name for name in asked if name.startswith("beta-")]) == len(explorables.BETAS)


def pictures(page):
    return page.evaluate("f => document.querySelectorAll(f + ' canvas')[1].toDataURL()", FIGURE)


def test_a_touched_point_is_chosen_and_drawn(opener, facts):
    page, figure = alive(opener)
    canvas = figure.locator("canvas").first
    before, box = pictures(page), canvas.bounding_box()
    page.mouse.click(box["x"] + 40, box["y"] + 30)  # the upper left: no code at all
    assert figure.get_by_role("slider").input_value() == "5"
    page.wait_for_function("([f, before]) => document.querySelectorAll(f + ' canvas')[1].toDataURL() !== before", arg=[FIGURE, before])
    says(page, f"β {facts['betas'][5]}")


def test_on_a_phone_light_and_dark(opener):
    page, figure = alive(opener, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert figure.get_by_role("slider").bounding_box()["height"] >= 32
    light = pictures(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("([f, before]) => document.querySelectorAll(f + ' canvas')[1].toDataURL() !== before", arg=[FIGURE, light])
    assert len(light) > 3000


def test_without_javascript_the_picture_stays(opener):
    page = opener(java_script_enabled=False)
    page.visit(PAGE)
    assert page.locator(f"{FIGURE} img").is_visible() and not page.locator(f"{FIGURE} canvas").count()


def test_the_figure_is_light(site):
    folder = site / "_static/explorables"
    files = [*folder.glob("data/beta*.safetensors"), *(folder / name for name in ("beta.js", "canvas.js", "load.js", "matrix.js", "explorables.js", "explorables.css"))]
    assert sum(f.stat().st_size for f in files) < 700_000
