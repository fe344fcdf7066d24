"""The figure "draw": what it makes of a digit is what the package makes of it, and mouse, finger and keys can draw one."""
import gzip
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from rounding import layers, parts
from safetensors.torch import save

from vae_nbdev.data import load_mnist
from vae_nbdev.elbo import elbo_terms
from vae_nbdev.explorables import example_digits, first_look, half, latent_map
from vae_nbdev.model import inference
from vae_nbdev.weights import pretrained

pytestmark = pytest.mark.slow
ROOT, CHAPTER, LANDING = Path(__file__).parents[1], "05_model.html", "index.html"
FIGURES = [(LANDING, "draw")] + [(f"{path.stem}.html", name) for path in sorted((ROOT / "nbs").glob("*.ipynb")) for name in re.findall(r'"#\| explorable: (\S+?)(?: .*)?\\n"', path.read_text("utf-8"))]
MODELS = {"mnist-2d": 2, "mnist-fast": 20}


@cache
def exact(stem):
    "A file of the weights as they are."
    name, _, part = stem.rpartition("-")
    return save(half(pretrained(name), part, None))


@pytest.fixture
def ask(opener):
    "Evaluate JavaScript with the figure's modules at hand; `exact/NAME-PART.safetensors` has the weights as they are."
    window = opener()
    window.route("**/exact/*", lambda route: route.fulfill(body=exact(Path(route.request.url).stem)))
    window.visit("glossary.html")
    modules = "const [load, matrix, ink, draw, canvas] = await Promise.all(['load', 'matrix', 'ink', 'draw', 'canvas'].map(name => import(`./_static/explorables/${name}.js`)));"
    return lambda code, values=None: window.evaluate(f"async values => {{ {modules} const file = name => load.read(`./_static/explorables/${{name}}.safetensors`); {code} }}", values)


# ------------------------------------------------------------------------------------------------ the numbers

LOOK = """const model = [await file(values.folder + '-encoder'), await file(values.folder + '-decoder')];
return values.x.map((bytes, i) => {
    const x = bytes.map(v => v / 255), shown = draw.look(...model, x, values.noise[i]), first = values.z?.[i] ?? shown.z[0];
    return { mu: [...shown.q.mu], log_var: [...shown.q.logVar], z: shown.z.map(z => [...z]), logits: [...matrix.decodeLogits(model[1], first)],
        pixels: [...shown.pictures[0]], each_kl: [...shown.kl], ...draw.terms(shown) } })"""


def inputs(name, mnist, n=200):
    "Images, in double precision the same grey values, and noise for five draws of z of each."
    return (mnist["test"][0][:n].double() * 255).round() / 255, torch.randn(n, 5, MODELS[name], generator=torch.Generator().manual_seed(1))


def asked(ask, folder, x, noise, **more):
    found = ask(LOOK, {"folder": folder, "x": (x.flatten(1) * 255).round().int().tolist(), "noise": noise.tolist(), **more})
    return {key: torch.tensor([f[key] for f in found], dtype=torch.double) for key in found[0]}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_browser_makes_of_an_image_is_what_the_package_makes(ask, mnist, name):
    x, noise = inputs(name, mnist)
    found, model = asked(ask, f"exact/{name}", x, noise), pretrained(name).double()
    with inference(model):
        mu, log_var = model.encode(x)
        z = mu[:, None] + (0.5 * log_var).exp()[:, None] * noise.double()  # (200, 5, Z)
        p = model.likelihood(z.transpose(0, 1))  # of (5, 200) pictures
        cost, kl = -p.log_prob(x).mean(0), torch.distributions.kl_divergence(model.posterior(x), model.prior)
        logits = model.decode_logits(z[:, 0])
    wanted = {"mu": mu, "log_var": log_var, "z": z, "logits": logits, "pixels": logits.sigmoid(), "reconstruction": cost, "kl": kl, "loss": cost + kl}
    torch.testing.assert_close(found["each_kl"].sum(1), kl)
    for key, value in wanted.items(): torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", MODELS)
def test_one_draw_of_z_is_the_estimate_of_elbo_terms(ask, mnist, name):
    x, _ = inputs(name, mnist)
    noise = torch.randn(200, MODELS[name], generator=torch.Generator().manual_seed(0))
    model = pretrained(name)
    with inference(model): reconstruction, kl = elbo_terms(model, x.float(), torch.Generator().manual_seed(0))
    found = asked(ask, f"exact/{name}", x, noise[:, None])
    for key, value in {"reconstruction": reconstruction, "kl": kl, "loss": reconstruction + kl}.items():
        torch.testing.assert_close(found[key], value.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_eight_bits_move_nothing_further_than_rounding_can(ask, mnist, name):
    """By no more than the bounds of `rounding.layers`. The cross-entropy of a pixel has a slope between -1 and 1, so -log p(x|z) moves by no more
    than the logits together; the KL by |mu| d + d^2 / 2 + (sigma^2 (e^D - 1) + D) / 2, where d and D bound mu and log_var."""
    x, noise = inputs(name, mnist)
    weights = parts(pretrained(name))
    pixels = x.flatten(1)
    (mu, d, typical_mu), (log_var, D, typical_log_var) = layers(*weights, pixels, "fc_encoder_hidden", ("fc_mu", "fc_log_var"))
    z = mu + (0.5 * log_var).exp() * noise[:, 0].double()
    [(logits, off, typical)] = layers(*weights, z, "fc_decoder_hidden", ("fc_output",))
    found = asked(ask, f"data/{name}", x, noise[:, :1], z=z.tolist())
    for key, value, bound, usual in (("mu", mu, d, typical_mu), ("log_var", log_var, D, typical_log_var), ("logits", logits, off, typical)):
        moved = (found[key] - value).abs()
        assert moved.max() > 1e-4 and (moved <= bound).all() and (moved <= 6 * usual).all(), key
    cost = lambda logits: (torch.nn.functional.softplus(logits) - pixels * logits).sum(1)
    assert ((cost(found["logits"]) - cost(logits)).abs() <= off.sum(1)).all()
    kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var)
    assert ((found["each_kl"] - kl).abs() <= mu.abs() * d + d**2 / 2 + 0.5 * (log_var.exp() * D.expm1() + D)).all()
    loss = cost(logits) + kl.sum(1)  # of z by the encoder's own numbers: no bound, but it is small
    assert abs((found["loss"] - loss).mean() / loss.mean()) < 0.005 and ((found["loss"] - loss).abs() / loss).median() < 0.02


def strokes(n=40):
    "Drawings of one to three lines, (x, y) on a pad of 28 x 28."
    g = torch.Generator().manual_seed(2)
    corner = lambda: (6 + 16 * torch.rand(2, generator=g)).tolist()
    return [[[corner() for _ in range(4)] for _ in range(1 + i % 3)] for i in range(n)]


def test_ink_is_what_is_near_the_line(ask):
    """Full within 0.65 pixels of a line, none from 1.65, and in between it falls in proportion: seen from many points along the line."""
    found = torch.tensor(ask("return values.map(lines => [...ink.rendered(lines)])", strokes()), dtype=torch.double).view(-1, 28, 28)
    t, middle = torch.linspace(0, 1, 200).double()[:, None], torch.arange(28).double() + 0.5
    pixels = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1).view(-1, 2)
    for grey, lines in zip(found, strokes()):
        points = torch.cat([torch.lerp(torch.tensor(a).double(), torch.tensor(b).double(), t) for line in lines for a, b in zip(line, line[1:])])
        wanted = (1.65 - torch.cdist(pixels, points).amin(1)).clamp(0, 1).view(28, 28)
        torch.testing.assert_close(grey, wanted, rtol=0, atol=0.02)


def test_a_drawing_is_fitted_and_centred_as_in_mnist(ask):
    fitted = lambda drawings: torch.tensor(ask("return values.map(lines => [...ink.centred(lines)])", drawings), dtype=torch.double).view(-1, 28, 28)
    found = fitted(strokes())
    middle = torch.arange(28).double() + 0.5
    mass = torch.stack([(found.sum(1) * middle).sum(1), (found.sum(2) * middle).sum(1)]) / found.sum((1, 2))
    assert (mass - 14).abs().max() < 0.2  # a rendered line has its ink at whole pixels
    lit = [(found.amax(k) > 0.6).sum(1) for k in (1, 2)]  # columns, rows
    assert torch.maximum(*lit).unique().tolist() in ([19, 20], [20], [19, 20, 21], [18, 19, 20])
    small = [[[[x / 3 + 2, y / 3 + 15] for x, y in line] for line in lines] for lines in strokes()]
    torch.testing.assert_close(fitted(small), found, rtol=0, atol=1e-9)  # of whatever size, wherever it is drawn
    dot, nothing = fitted([[[[3.0, 4.0]]], []])
    assert nothing.sum() == 0 and 4 < dot.sum() < 9 and (dot[13:15, 13:15] - dot.max()).abs().max() < 1e-9


def test_the_nearest_class_is_that_of_the_nearest_mean(ask):
    (mu, labels), z = latent_map(), torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    means = torch.stack([mu[labels == k].mean(0) for k in range(10)])
    found = ask("const means = draw.classMeans(matrix.mapPoints(await file('data/map'))); return values.map(z => draw.nearestClass(means, z))", z.tolist())
    assert found == torch.cdist(z, means).argmin(1).tolist()


def test_numbers_as_they_are_shown(ask):
    assert ask("return values.map(v => canvas.number(v))", [1.26, -1.26, -0.04, 0]) == ["1.3", "\u22121.3", "0.0", "0.0"]
    assert ask("return canvas.number(values, 0)", -2) == "\u22122"


def test_a_type_that_no_figure_reads_is_named(ask):
    told = ask("try { return load.parse(new Uint8Array(values).buffer) } catch (error) { return error.message }", list(save({"fc.weight": torch.ones(2, 2, dtype=torch.bfloat16)})))
    assert told == "fc.weight has the type BF16, which no figure reads"


@pytest.mark.parametrize("name", MODELS)
def test_the_first_look_is_that_of_the_weights(ask, name):
    "What a page shows before it has fetched a model is what the model says then."
    tensors, facts = first_look(name)
    x = example_digits()[0][2 * facts["digit"]]
    found = asked(ask, f"exact/{name}", x[None], tensors["noise"][None])
    torch.testing.assert_close(found["mu"][0], tensors["mu"].double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["reconstruction"][0], tensors["costs"].double().mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["pixels"][0], tensors["pictures"][0] / 255.0, rtol=0, atol=0.003, check_dtype=False)
    model, noise = pretrained(name), torch.Generator().manual_seed(0)
    with inference(model): average = sum(elbo_terms(model, load_mnist("test")[0][:1000], noise)).mean().item()
    assert facts["average"] == pytest.approx(average)


# ------------------------------------------------------------------------------------------------ the page

def mounted(window, page=CHAPTER):
    window.visit(page)
    figure = window.locator("figure[data-name=draw]")
    figure.scroll_into_view_if_needed()
    window.wait_for_selector("figure[data-name=draw].is-alive")
    window.wait_for_timeout(100)  # a frame
    return figure


def said(window, words):
    window.wait_for_function("words => document.querySelector('[data-name=draw] [aria-live]').textContent.toLowerCase().includes(words)", arg=words, timeout=5000)


def numbers(figure):
    "Reconstruction, KL, negative ELBO, as they are written."
    return [float(text) for text in figure.locator(".draw-term > b").all_inner_texts()]


def picture_of(figure, selector):
    return figure.locator(selector).evaluate("c => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(c.toDataURL()))))")


def shades(canvas, *part):
    "How many colours are in a part of a canvas: left, top, width and height in parts of the whole."
    return canvas.evaluate("""(canvas, part) => { const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const box = part.map((v, i) => Math.round(v * (i % 2 ? canvas.height : canvas.width)));
        return new Set(new Uint32Array(copy.getImageData(...box).data.buffer)).size }""", part)


PAD, SAMPLES, POSTERIOR = ".draw-pad [role=application]", ".draw-samples canvas", ".draw-posterior canvas:last-child"


def draw(window, figure, points):
    "A line by the mouse; points in parts of the pad."
    box = figure.locator(PAD).bounding_box()
    for i, (x, y) in enumerate(points):
        window.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=1 if i == 0 else 4)
        if i == 0: window.mouse.down()
    window.mouse.up()


ONE = [(0.55, 0.15), (0.52, 0.4), (0.48, 0.6), (0.45, 0.85)]
ZERO = [(0.5 + 0.25 * math.sin(a), 0.5 - 0.35 * math.cos(a)) for a in [k * math.pi / 8 for k in range(17)]]


def test_a_drawn_one_is_encoded_near_the_ones(opener):
    window = opener()
    figure = mounted(window)
    first = [picture_of(figure, selector) for selector in (PAD, SAMPLES, POSTERIOR)]
    draw(window, figure, ONE)
    said(window, "nearest to the ones")
    assert not {picture_of(figure, selector) for selector in (PAD, SAMPLES, POSTERIOR)} & set(first)
    cost, kl, loss = numbers(figure)
    assert loss == pytest.approx(cost + kl, abs=0.11) and loss < 150
    figure.get_by_role("button", name="Clear").click()
    draw(window, figure, ZERO)
    said(window, "nearest to the zeros")
    assert figure.locator("[aria-pressed=true]").count() == 0


def test_the_keyboard_alone_draws_a_line_and_clears(opener):
    window = opener()
    figure = mounted(window)
    address, shown, digit = window.url, numbers(figure), picture_of(figure, PAD)
    figure.get_by_role("button", name="Clear").focus()
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.getAttribute('role')") == "application"
    for key in ["ArrowUp"] * 3 + ["ArrowRight"]: window.keyboard.press(key)
    said(window, "column 15, row 4")
    assert numbers(figure) == shown and picture_of(figure, PAD) != digit  # the pen is seen, and leaves no ink
    window.keyboard.press("Space")
    said(window, "down")
    for _ in range(18): window.keyboard.press("ArrowDown")
    said(window, "nearest to the ones")
    window.keyboard.press("Space")
    said(window, "lifted")
    drawn, ink = numbers(figure), picture_of(figure, PAD)
    for key in ["ArrowLeft"] * 3: window.keyboard.press(key)
    assert numbers(figure) == drawn and window.url == address  # a lifted pen leaves no ink, and no page is turned
    window.keyboard.press("Delete")
    said(window, "nothing is drawn: negative elbo")
    assert picture_of(figure, PAD) != ink and numbers(figure) != drawn
    empty = numbers(figure)
    for _ in range(2): window.keyboard.press("Space")  # a dot
    assert numbers(figure) != empty


def test_a_test_digit_by_its_button_and_z_drawn_again(opener):
    window = opener()
    figure = mounted(window)
    figure.get_by_role("button", name="Test digit 7").focus()
    window.keyboard.press("Enter")
    assert figure.locator("[aria-pressed=true]").get_attribute("aria-label") == "Test digit 7"
    said(window, "nearest to the sevens")
    model, x = pretrained("mnist-2d"), example_digits()[0][14:15]
    with inference(model): q = model.posterior(x)
    z = q.mean + q.stddev * first_look("mnist-2d")[0]["noise"]
    with inference(model): cost = -model.likelihood(z).log_prob(x).mean().item()
    kl = torch.distributions.kl_divergence(q, model.prior).item()
    assert numbers(figure) == pytest.approx([cost, kl, cost + kl], rel=0.03)
    before, dots = numbers(figure), picture_of(figure, POSTERIOR)
    figure.get_by_role("button", name="Draw z again").press("Enter")
    after = numbers(figure)
    assert after[1] == before[1] and after[0] != before[0] and picture_of(figure, POSTERIOR) != dots


def test_a_finger_draws_and_the_page_stays(opener):
    window = opener(width=360, has_touch=True, is_mobile=True)
    figure = mounted(window)
    figure.locator(PAD).evaluate("pad => pad.scrollIntoView({ block: 'center' })")
    box, top = figure.locator(PAD).bounding_box(), window.evaluate("scrollY")
    touch = window.context.new_cdp_session(window)
    at = lambda point: [{"x": box["x"] + point[0] * box["width"], "y": box["y"] + point[1] * box["height"]}]
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at(ONE[0])})
    for point in ONE[1:]: touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": at(point)})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    said(window, "nearest to the ones")
    assert window.evaluate("scrollY") == top


def test_a_second_finger_leaves_no_ink(opener):
    window = opener(width=360, has_touch=True, is_mobile=True)
    figure = mounted(window)
    pad = figure.locator(PAD)
    pad.evaluate("pad => pad.scrollIntoView({ block: 'center' })")
    box, touch = pad.bounding_box(), window.context.new_cdp_session(window)
    at = lambda *points: [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": i} for i, (x, y) in enumerate(points)]
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at(ONE[0])})
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at(ONE[0], (0.9, 0.9))})
    for i, point in enumerate(ONE[1:]): touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": at(point, (0.9, 0.8 - 0.1 * i))})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    said(window, "nearest to the ones")
    assert shades(pad, 0.3, 0, 0.4, 1) > 1 and shades(pad, 0.75, 0, 0.25, 1) == 1


@pytest.mark.parametrize("page", [CHAPTER, LANDING])
@pytest.mark.parametrize("theme, width", [("light", 1280), ("light", 640), ("dark", 360)])
def test_the_figure_in_its_place(opener, page, theme, width):
    "Legible, within the column, with room for a finger, and the page does not jump when it comes alive."
    window = opener(theme=theme, width=width, reduced_motion="no-preference")
    figure = mounted(window, page)
    paper = [int(n) for n in re.findall(r"\d+", window.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]]
    corner = figure.locator(PAD).evaluate("c => [...c.getContext('2d').getImageData(3, 3, 1, 1).data.slice(0, 3)]")
    assert corner == pytest.approx(paper, abs=12)
    pad, hint = figure.locator(PAD).bounding_box(), figure.locator(".draw-hint").bounding_box()
    under_hint = [(hint["x"] - pad["x"]) / pad["width"], (hint["y"] - pad["y"]) / pad["height"], hint["width"] / pad["width"], hint["height"] / pad["height"]]
    assert shades(figure.locator(PAD), *under_hint) == 1  # "draw here" stands where no ink is
    assert window.evaluate("[...document.querySelectorAll('figure.explorable')].filter(f => f.scrollWidth > f.clientWidth || f.getBoundingClientRect().right > innerWidth).length") == 0
    assert window.evaluate("[...document.querySelectorAll('[data-name=draw] button')].map(e => [e.getBoundingClientRect(), e.ariaLabel ?? e.textContent]).filter(([b]) => b.height < 32 || b.width < 32).map(([b, t]) => [t, b.width, b.height])") == []
    assert window.evaluate("document.getAnimations().filter(a => a.effect.target.closest('figure.explorable')).length") == 0
    window.evaluate((ROOT / "docs/node_modules/axe-core/axe.min.js").read_text("utf-8"))
    found = window.evaluate("axe.run('figure.explorable', { resultTypes: ['violations'] }).then(r => r.violations)")
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []
    reserved, needed = figure.evaluate("f => [f.clientHeight - (f.querySelector('figcaption')?.offsetHeight ?? 0), f.querySelector('.explorable-place').offsetHeight]")
    assert 0 <= reserved - needed < 60, (reserved, needed)
    shift = window.evaluate("""new Promise(done => { let sum = 0; new PerformanceObserver(list => list.getEntries().forEach(e => sum += e.value))
        .observe({ type: 'layout-shift', buffered: true }); setTimeout(() => done(sum), 100) })""")
    assert shift < 0.05


def test_the_figure_follows_the_theme(opener):
    window = opener()
    figure = mounted(window)
    before = picture_of(figure, POSTERIOR)
    window.evaluate("document.body.dataset.theme = 'dark'")
    assert picture_of(figure, POSTERIOR) != before


@pytest.mark.parametrize("page", [CHAPTER, LANDING])
def test_a_page_fetches_when_the_figure_is_near_and_no_more_than_it_may(opener, site, base, page):
    window, asked = opener(), []
    window.on("request", lambda r: asked.append(r.url.removeprefix(base)) if "/explorables/" in r.url else None)
    window.visit(page)
    window.wait_for_timeout(300)
    if page == CHAPTER: assert sorted(Path(name).name for name in asked) == ["explorables.css", "explorables.js"]
    figure = window.locator("figure[data-name=draw]")
    figure.scroll_into_view_if_needed()
    window.wait_for_selector("figure[data-name=draw].is-alive")
    draw(window, figure, ONE)
    said(window, "negative elbo")
    size = lambda file: len(gzip.compress(file.read_bytes())) if file.suffix in (".js", ".css") else file.stat().st_size
    assert len(asked) == len(set(asked)) and 600_000 < sum(size(site / name) for name in asked) <= 700_000


def test_the_landing_page_fetches_a_model_when_it_is_touched(opener):
    window, weights = opener(), []
    window.on("request", lambda r: weights.append(Path(r.url).stem) if re.search(r"coder\.safetensors", r.url) else None)
    figure = mounted(window, LANDING)
    figure.locator("div.draw-loss").hover()  # on the way to elsewhere
    window.wait_for_timeout(300)
    assert weights == [] and figure.locator("[aria-pressed=true]").count() == 1  # and yet a digit is shown, with its loss
    tensors, facts = first_look("mnist-fast")
    assert numbers(figure)[0] == pytest.approx(tensors["costs"].mean().item(), abs=0.06)
    draw(window, figure, ONE)
    said(window, "pays most")
    assert sorted(weights) == ["mnist-fast-decoder", "mnist-fast-encoder"] and figure.locator("[aria-pressed=true]").count() == 0
    assert numbers(figure)[2] < 150


def test_no_number_is_shown_that_no_model_has_said(opener):
    window, held = opener(), []
    window.route("**/*coder.safetensors", lambda route: held.append(route))
    figure = mounted(window, LANDING)
    first = numbers(figure), [picture_of(figure, selector) for selector in (SAMPLES, POSTERIOR, ".draw-loss canvas")]
    draw(window, figure, ONE)
    said(window, "is being fetched")
    assert figure.locator(".draw-term > b").all_inner_texts() == 3 * ["\u2026"]
    assert not {picture_of(figure, selector) for selector in (SAMPLES, POSTERIOR, ".draw-loss canvas")} & set(first[1])
    figure.get_by_role("button", name="Test digit 4").click()
    assert numbers(figure) == first[0]  # known without a model
    figure.get_by_role("button", name="Test digit 7").click()
    for route in held: route.fulfill(body=b"nothing that can be read")
    said(window, "could not be fetched")
    assert figure.locator(".draw-term > b").all_inner_texts() == 3 * ["\u2026"]
    window.unroute("**/*coder.safetensors")
    draw(window, figure, ONE)  # the next touch tries again
    said(window, "pays most")
    assert numbers(figure)[2] < 150


HEIGHTS = "f => [f.offsetHeight, f.querySelector('img').offsetHeight, f.querySelector('figcaption')?.offsetHeight ?? 0]"


@pytest.mark.parametrize("page, name", FIGURES)
def test_a_figure_takes_the_room_that_was_kept_for_it_and_none_on_paper(opener, page, name):
    "Between phone and desktop, where one layout follows the other."
    window = opener(width=640)
    window.visit(page)
    figure = window.locator(f"figure[data-name={name}]")

    def on_paper():
        window.emulate_media(media="print")
        tall, image, caption = figure.evaluate(HEIGHTS)
        seen = figure.evaluate("f => [f.querySelector('.explorable-place')?.offsetHeight ?? 0, f.querySelector('img').getClientRects().length]")
        window.emulate_media(media="screen")
        assert seen == [0, 1] and image > 50 and tall < image + caption + 60

    on_paper()
    kept = figure.evaluate("f => f.offsetHeight")
    figure.scroll_into_view_if_needed()
    window.wait_for_selector(f"figure[data-name={name}].is-alive")
    window.wait_for_timeout(100)
    place, taken = figure.evaluate("f => [f.querySelector('.explorable-place').offsetHeight + (f.querySelector('figcaption')?.offsetHeight ?? 0), f.offsetHeight]")
    assert abs(taken - kept) < 20 and taken - place < 80
    assert figure.evaluate("f => [...f.querySelectorAll('.explorable-static a')].filter(a => a.tabIndex >= 0).length") == 0  # nobody sees it
    on_paper()


@pytest.mark.parametrize("page, name", FIGURES)
def test_without_javascript_the_picture_stands_there(opener, page, name):
    window = opener(width=360, java_script_enabled=False)
    window.visit(page)
    figure = window.locator(f"figure[data-name={name}]")
    image, caption = figure.locator("img"), figure.locator("figcaption")
    assert image.is_visible() and len(image.get_attribute("alt")) > 80 and figure.locator("canvas").count() == 0
    assert figure.bounding_box()["height"] < image.bounding_box()["height"] + (caption.bounding_box()["height"] if caption.count() else 0) + 60


def test_a_figure_without_its_data_stays_a_picture(browser, base):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    window, told = context.new_page(), []
    window.on("console", lambda m: told.append(m.text))
    window.route("**/data/map.safetensors", lambda route: route.fulfill(body=b"nothing that can be read"))
    window.goto(base + CHAPTER)
    figure = window.locator("figure[data-name=draw]")
    figure.scroll_into_view_if_needed()
    window.wait_for_selector("figure[data-name=draw].is-still")
    tall, image, caption = figure.evaluate(HEIGHTS)
    assert figure.locator("img").is_visible() and tall < image + caption + 60
    assert len(told) == 1 and "The figure draw stays a picture" in told[0]
    context.close()
