"""One slider over weights of the KL: the browser's encodings, decodings and numbers are those of the package."""

import pytest
import torch

from rounding import layers, parts

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


def some(tests, i, n=34):
    "Digits for the model at place i, and as many codes: 200 and more over all models."
    return tests[i * n:(i + 1) * n].flatten(1), torch.randn(n, 8, generator=torch.Generator().manual_seed(i))


def run(page, folder, beta, x, z):
    found = page.evaluate(RUN, [f"{folder}beta-{beta}.safetensors", x.int().tolist(), z.tolist()])
    return {name: torch.tensor(values, dtype=torch.double) for name, values in found.items()}


@pytest.mark.parametrize("i, beta", [*enumerate(explorables.BETAS)])
def test_encodings_and_decodings_are_the_package_s(page, exact, tests, i, beta):
    x, z = some(tests, i)
    with inference(model := pretrained(f"mnist-beta-{beta}").double()):
        mu, log_var = model.encode(x.double())
        wanted = {"mu": mu, "logVar": log_var, "back": model.decode(mu), "drawn": model.decode(z.double())}
    found = run(page, exact, beta, x, z)
    for name, right in wanted.items(): torch.testing.assert_close(found[name], right, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("i, beta", [*enumerate(explorables.BETAS)])
def test_eight_bits_move_nothing_further_than_rounding_can(page, tests, i, beta):
    """The bounds of `rounding.layers`; the reconstructions are decoded from the browser's own means, and a pixel moves a quarter as far as its logit."""
    x, z = some(tests, i)
    found, rounded = run(page, "./data/", beta, x, z), parts(pretrained(f"mnist-beta-{beta}"))
    encoded = layers(*rounded, x.double(), "fc_encoder_hidden", ("fc_mu", "fc_log_var"))
    decoded = [next(layers(*rounded, codes, "fc_decoder_hidden", ("fc_output",))) for codes in (found["mu"], z.double())]
    decoded = [(logits.sigmoid(), bound / 4, usual / 4) for logits, bound, usual in decoded]
    for name, (right, bound, usual) in zip(("mu", "logVar", "back", "drawn"), (*encoded, *decoded)):
        moved = (found[name] - right).abs()
        assert (moved <= bound).all() and (moved <= 6 * usual).all(), name
    assert moved.max() > 1e-4  # they do move something


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


def shows(page, words):
    page.wait_for_function("([f, words]) => document.querySelectorAll(f + ' canvas')[1].ariaLabel.includes(words)", arg=[FIGURE, words])


INK = """f => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
  const canvas = document.querySelectorAll(f + " canvas")[1], { width, height } = canvas, size = width / 6;
  const copy = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const dark = (v, i, all) => i % 4 === 0 && v < 180 && all[i + 3] > 200;
  done([0, 1, 2].map(row => copy.getImageData(0, row * (24 + size) + 22, width, size - 2).data.filter(dark).length));
})))"""  # how many dark pixels the test digits, reconstructions and samples have, once they are drawn


def test_the_slider_alone_walks_along_the_curve(opener, facts):
    page, figure = alive(opener)
    slider, canvas = figure.get_by_role("slider"), figure.locator("canvas").first
    slider.focus()
    page.keyboard.press("Home")
    assert facts["rates"] == sorted(facts["rates"], reverse=True)  # to the right the rate grows
    for i, (beta, rate, distortion) in enumerate(zip(*(facts[name][::-1] for name in ("betas", "rates", "distortions")))):
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
    with page.expect_request("**/beta-0.1.safetensors"): page.locator(FIGURE).get_by_role("slider").focus()
    assert len([name for name in asked if name.startswith("beta-")]) == len(explorables.BETAS)


def pictures(page):
    return page.evaluate("f => document.querySelectorAll(f + ' canvas')[1].toDataURL()", FIGURE)


def test_a_touched_point_is_chosen_and_drawn(opener, facts):
    page, figure = alive(opener)
    canvas = figure.locator("canvas").first
    before, box = pictures(page), canvas.bounding_box()
    page.mouse.click(box["x"] + 40, box["y"] + 30)  # the upper left: no code at all, the slider's left end too
    assert figure.get_by_role("slider").input_value() == "0"
    page.wait_for_function("([f, before]) => document.querySelectorAll(f + ' canvas')[1].toDataURL() !== before", arg=[FIGURE, before])
    says(page, f"β {facts['betas'][5]}")


def test_while_a_model_is_fetched_no_pictures_of_another_are_shown(opener):
    page, held = opener(), []
    page.route("**/beta-30.safetensors", lambda route: held.append(route))
    page.visit(PAGE)
    page.locator(FIGURE).scroll_into_view_if_needed()
    page.wait_for_selector(f"{FIGURE}.is-alive")
    shows(page, "twelve samples")
    assert min(page.evaluate(INK, FIGURE)) > 500
    page.locator(FIGURE).get_by_role("slider").focus()
    page.keyboard.press("Home")
    says(page, "being fetched")
    shows(page, "not here yet")
    digits, *missing = page.evaluate(INK, FIGURE)
    assert digits > 500 and missing == [0, 0]
    for route in held: route.continue_()
    shows(page, "twelve samples")
    says(page, "than at β 1.")
    page.wait_for_function("f => !document.querySelector(f + ' [role=status]').textContent.includes('fetched')", arg=FIGURE)
    assert min(page.evaluate(INK, FIGURE)) > 100


def test_a_model_that_cannot_be_fetched_is_missed_and_asked_for_again(browser, base):
    context, wrong = browser.new_context(), []  # not `opener`'s, to which a failed request is an error
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(error))
    page.route("**/beta-30.safetensors", lambda route: route.fulfill(status=503))
    page.route("**/beta-10.safetensors", lambda route: route.abort())
    page.goto(base + PAGE)
    page.locator(FIGURE).scroll_into_view_if_needed()
    page.wait_for_selector(f"{FIGURE}.is-alive")
    page.locator(FIGURE).get_by_role("slider").focus()
    for key in ("Home", "ArrowRight"):
        page.keyboard.press(key)
        says(page, f"β {30 if key == 'Home' else 10}: the model could not be fetched.")
        assert page.evaluate(INK, FIGURE)[1:] == [0, 0]
    page.unroute_all()
    for key in ("Home", "ArrowRight"):
        page.keyboard.press(key)
        shows(page, "twelve samples")
        assert min(page.evaluate(INK, FIGURE)) > 100
    assert not wrong, wrong
    context.close()


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
