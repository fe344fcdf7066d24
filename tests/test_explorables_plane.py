"""Chapter 7's figures on the site, the latent plane and the axes: their numbers are the package's, and every hand reaches them."""
import gzip
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from vae_nbdev.elbo import principal_components
from vae_nbdev.explorables import half, latent_axes, latent_map, quantize
from vae_nbdev.model import decode, posterior_mean
from vae_nbdev.visualization import DIGIT_COLORS, interpolate
from vae_nbdev.weights import pretrained

pytestmark = pytest.mark.slow
ROOT, PAGE = Path(__file__).parents[1], "07_visualization.html"
MODELS = {"mnist-2d": 2, "mnist-fast": 20}


def rounded(name):
    "The model whose decoder has the weights that the page loads."
    model = pretrained(name)
    state = model.state_dict()
    for key in ("fc_decoder_hidden.weight", "fc_output.weight"):
        steps, scale = quantize(state[key])
        state[key] = steps * scale[:, None]
    model.load_state_dict(state)
    return model


@pytest.fixture
def ask(opener):
    "Evaluate JavaScript with the figures' modules at hand; `exact/NAME-decoder.safetensors` has the weights as they are."
    window = opener()
    exact = {name: save(half(pretrained(name), "decoder", None)) for name in MODELS}
    window.route("**/exact/*", lambda route: route.fulfill(body=exact[Path(route.request.url).name.removesuffix("-decoder.safetensors")]))
    window.visit(PAGE)
    modules = "const [load, matrix, canvas, plane, axes] = await Promise.all(['load', 'matrix', 'canvas', 'plane', 'axes'].map(name => import(`./_static/explorables/${name}.js`)));"
    return lambda code, values=None: window.evaluate(f"async values => {{ {modules} const file = name => load.read(`./_static/explorables/${{name}}.safetensors`); {code} }}", values)


def codes(latent_dim, n=200):
    return 1.5 * torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------ the numbers

DECODED = "const model = await file(values.file); return values.z.map(z => [...matrix.decode{}(model, z)]);"


@pytest.mark.parametrize("name", MODELS)
def test_a_browser_decodes_as_the_package_does(ask, name):
    z, model = codes(MODELS[name]), pretrained(name)
    found = ask(DECODED.format(""), {"file": f"exact/{name}-decoder", "z": z.tolist()})
    torch.testing.assert_close(torch.tensor(found), decode(model, z).flatten(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_eight_bits_move_logits_no_further_than_rounding_can(ask, name):
    """Half a step of rounding, s / 2 for each weight of a row: hidden units move by at most e = s |z|_1 / 2 (a ReLU adds nothing), logits by at
    most |W| e + S sum(h + e) / 2. Roundings that know nothing of each other have the variance s^2 / 12, and so logits that of `typical`."""
    z, weights = codes(MODELS[name]).double(), {key: t.double() for key, t in half(pretrained(name), "decoder", None).items()}
    scales = half(pretrained(name), "decoder")
    s, S = (scales[f"{layer}.weight.scale"].double() for layer in ("fc_decoder_hidden", "fc_output"))
    W = weights["fc_output.weight"]
    h = (z @ weights["fc_decoder_hidden.weight"].T + weights["fc_decoder_hidden.bias"]).relu()
    e = s / 2 * z.abs().sum(1, keepdim=True)
    bound = e @ W.abs().T + S / 2 * (h + e).sum(1, keepdim=True)
    typical = ((s**2 / 12 * z.square().sum(1, keepdim=True)) @ W.square().T + S**2 / 12 * h.square().sum(1, keepdim=True)).sqrt()
    found = torch.tensor(ask(DECODED.format("Logits"), {"file": f"data/{name}-decoder", "z": z.tolist()}), dtype=torch.double)
    off = (found - (h @ W.T + weights["fc_output.bias"])).abs()
    assert off.max() > 1e-4 and (off <= bound).all() and (off <= 6 * typical).all()


def test_the_walk_from_a_to_b_is_that_of_interpolate(ask, mnist):
    model, (images, _) = pretrained("mnist-2d"), mnist["test"]
    a, b = images[:200], images[200:400]
    ends = [posterior_mean(model, x) for x in (a, b)]
    walks = ask("return values.a.map((a, i) => plane.walk(a, values.b[i], 7));", dict(zip("ab", (x.tolist() for x in ends))))
    wanted = torch.stack([torch.lerp(*ends, t) for t in torch.linspace(0, 1, 7)], 1)  # (200, 7, 2)
    torch.testing.assert_close(torch.tensor(walks), wanted, rtol=1e-5, atol=1e-6)
    pictures = ask(DECODED.format(""), {"file": "exact/mnist-2d-decoder", "z": [z for walk in walks[:20] for z in walk]})
    torch.testing.assert_close(torch.tensor(pictures).view(20, 7, 784), torch.stack([interpolate(model, *pair, 7).flatten(1) for pair in zip(a[:20], b)]), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def mu(mnist):
    return posterior_mean(pretrained("mnist-fast"), mnist["test"][0]).double()


def test_directions_are_principal_axes_and_single_latents(ask, mu):
    found = ask("const facts = await file('data/axes'); return ['axes', 'latents'].map(family => axes.directions(facts, family));")
    axes, latents = ({key: torch.tensor([d[key] for d in family], dtype=torch.double) for key in ("unit", "std", "share")} for family in found)
    v, variance = principal_components(mu)
    torch.testing.assert_close(axes["unit"], v.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(axes["share"], variance / variance.sum())
    activity, order = mu.var(0).sort(descending=True)
    torch.testing.assert_close(latents["unit"], torch.eye(20, dtype=torch.double)[order])
    torch.testing.assert_close(latents["std"], activity.sqrt())
    torch.testing.assert_close(latents["share"], activity / activity.sum())
    assert [d["name"] for d in found[1]] == [f"latent {j + 1}" for j in order]


@pytest.mark.parametrize("family", ["axes", "latents"])
def test_a_slider_moves_a_code_along_its_direction_and_nowhere_else(ask, mu, family):
    facts, z, g = latent_axes(), mu[:200], torch.Generator().manual_seed(0)
    k, to = torch.randint(20, (200,), generator=g), 8 * torch.rand(200, generator=g).double() - 4
    found = ask("""const facts = await file('data/axes'), all = axes.directions(facts, values.family);
        return values.z.map((z, i) => { const to = axes.moved(facts, z, all[values.k[i]], values.to[i]);
            return [to, axes.coordinate(facts, z, all[values.k[i]]), axes.coordinate(facts, to, all[values.k[i]])] });""",
        {"family": family, "z": z.tolist(), "k": k.tolist(), "to": to.tolist()})
    basis = facts["directions"] if family == "axes" else torch.eye(20).double()[facts["spread"].argsort(descending=True)]
    std = facts["std"] if family == "axes" else facts["spread"].sort(descending=True).values.sqrt()
    places = (z - facts["mean"]) @ basis.T / std  # in all 20 directions, (200, 20)
    torch.testing.assert_close(torch.tensor([f[1] for f in found], dtype=torch.double), places[range(200), k])
    places[range(200), k] = to
    torch.testing.assert_close(torch.tensor([f[0] for f in found], dtype=torch.double), facts["mean"] + (places * std) @ basis)
    torch.testing.assert_close(torch.tensor([f[2] for f in found], dtype=torch.double), to)


def test_the_nearest_digit_and_the_typical_ones(ask):
    (points, labels), z = latent_map(), 2 * codes(2)
    found = ask("const all = matrix.mapPoints(await file('data/map')); return [values.map(z => plane.nearest(all, z).z), matrix.range(10).map(k => plane.typical(all, k))];", z.tolist())
    torch.testing.assert_close(torch.tensor(found[0]), points[(z[:, None] - points).norm(dim=2).argmin(1)])
    for k, digits in enumerate(found[1]):
        there = torch.tensor([d["z"] for d in digits])
        distance = (there - points[labels == k].sort(0).values[(labels == k).sum() // 2]).norm(dim=1)
        assert {d["label"] for d in digits} == {k} and len(digits) == (labels == k).sum() and (distance.diff() >= -1e-6).all()


def test_the_colours_of_the_digits_are_the_chapter_s_and_stand_out_in_both_themes(ask):
    hexes = lambda colour: torch.tensor([int(colour[i:i + 2], 16) for i in (1, 3, 5)])
    light = lambda c: torch.where(c / 255 <= 0.04045, c / 255 / 12.92, ((c / 255 + 0.055) / 1.055)**2.4) @ torch.tensor([0.2126, 0.7152, 0.0722]) + 0.05
    for text, paper in (("#1b1e28", "#ffffff"), ("#e4e7f0", "#12141c")):
        found = ask("return canvas.digitColours(values);", {"text": text, "paper": paper})
        contrast = lambda c: max(light(c) / light(hexes(paper)), light(hexes(paper)) / light(c))
        for own, colour in zip(map(hexes, DIGIT_COLORS), (torch.tensor(numbers(c)) for c in found)):
            assert contrast(colour) > 2.99 and (contrast(own) < 3.01 or torch.equal(colour, own.float()))


# ------------------------------------------------------------------------------------------------ the page

def mounted(window, *names):
    "The figures of the chapter, alive."
    window.visit(PAGE)
    for name in names or ("axes", "plane"):
        window.locator(f"figure[data-name={name}]").scroll_into_view_if_needed()
        window.wait_for_selector(f"figure[data-name={name}].is-alive")
    window.wait_for_function("[...document.querySelectorAll('.is-alive canvas')].every(canvas => canvas.style.height)")  # drawn
    return window.locator(f"figure[data-name={(names or ('plane',))[-1]}]")


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+\.?\d*", text.replace("\u2212", "-"))]


def shown(figure, selector):
    "The picture in a canvas, 784 numbers: how much ink there is at the middle of each pixel."
    return torch.tensor(figure.locator(selector).evaluate("""canvas => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
        const { width } = canvas, copy = new OffscreenCanvas(width, width).getContext('2d', { willReadFrequently: true }), ink = [];
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, width, width);
        for (let y = 0; y < 28; y++) for (let x = 0; x < 28; x++) ink.push((255 - data[4 * (Math.floor((y + .5) * width / 28) * width + Math.floor((x + .5) * width / 28))]) / (255 - 27));
        done(ink) })))"""))


def plane_pixels(figure, z):
    "Where z is on the page."
    box, extent = figure.locator(".plane-top").bounding_box(), 1.04 * latent_map()[0].abs().max().item()
    return box["x"] + (1 + z[0] / extent) * box["width"] / 2, box["y"] + (1 - z[1] / extent) * box["height"] / 2


def test_a_dragged_point_has_its_own_picture(opener):
    window, model = opener(), rounded("mnist-2d")
    figure = mounted(window, "plane")
    z = lambda: numbers(figure.locator(".plane-where").inner_text())
    near = torch.cartesian_prod(*[torch.linspace(-0.005, 0.005, 9)] * 2)  # the text has two decimals
    is_of = lambda picture, z: (decode(model, torch.tensor(z) + near).flatten(1) - picture).abs().amax(1).min() < 0.02
    strip = lambda: figure.locator(".plane-strip").evaluate("c => c.toDataURL()")
    before, walk = shown(figure, ".plane-image"), strip()
    assert is_of(before, z())
    window.mouse.move(*plane_pixels(figure, z()))
    window.mouse.down()
    window.mouse.move(*plane_pixels(figure, [1.0, 0.5]), steps=4)
    window.mouse.move(*plane_pixels(figure, [1.5, -1.0]), steps=4)
    window.mouse.up()
    assert z() == pytest.approx([1.5, -1.0], abs=0.03)
    after = shown(figure, ".plane-image")
    assert (after - before).abs().max() > 0.3 and strip() == walk and is_of(after, z())
    # A is brought onto a digit by a press near it; the point stays, since it has left the line, and the walk is another
    points, labels = latent_map()
    alone = torch.cdist(points, points).fill_diagonal_(9).amin(1).argmax()
    figure.get_by_role("button", name="A", exact=True).click()
    x, y = plane_pixels(figure, points[alone].tolist())
    window.mouse.click(x + 3, y - 3)
    place, says = points[alone].tolist(), figure.locator("[aria-live=polite]")
    window.wait_for_function(f"document.querySelector('[data-name=plane] .explorable-says').textContent.includes(' {labels[alone]}.')")
    assert numbers(says.inner_text())[:2] == pytest.approx(place, abs=0.006) and strip() != walk
    assert z() == pytest.approx([1.5, -1.0], abs=0.03)
    # and a press on the strip takes the point back to the line
    box = figure.locator(".plane-strip").bounding_box()
    window.mouse.click(box["x"] + 5, box["y"] + 5)
    assert z() == pytest.approx(place, abs=0.006)


def test_the_plane_by_keyboard_alone(opener):
    window = opener()
    figure = mounted(window, "plane")
    z, address = lambda: numbers(figure.locator(".plane-where").inner_text()), window.url
    start = z()
    figure.locator(".plane-top").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowLeft"): window.keyboard.press(key)
    assert z() == pytest.approx([start[0] + 0.2 - 0.5, start[1] + 0.1], abs=0.011) and window.url == address
    reached = set()
    for _ in range(14):
        window.keyboard.press("Tab")
        reached.add(window.evaluate("document.activeElement.textContent || document.activeElement.type"))
    assert reached == {"the point", "A", "B", *"0123456789", "range"}
    points, labels = latent_map()
    figure.get_by_role("button", name="B", exact=True).press("Enter")
    for _ in range(2): figure.get_by_role("button", name=re.compile("^Move B to a 4")).press("Enter")
    window.wait_for_function("/^B = .* is a 4/.test(document.querySelector('[data-name=plane] .explorable-says').textContent)")
    there = torch.tensor(numbers(figure.locator("[aria-live=polite]").inner_text())[:2])
    assert (points[labels == 4] - there).norm(dim=1).min() < 0.01
    figure.get_by_role("slider").press("End")
    assert z() == pytest.approx(there.tolist(), abs=0.006)
    assert figure.get_by_role("slider").get_attribute("aria-valuetext") == "t = 1.00"
    assert figure.locator("[aria-live=polite]").count() == 1


def swipe(touch, *places):
    "A finger that goes from place to place."
    points = [[dict(zip("xy", place))] for place in places] + [[]]
    for kind, at in zip(["touchStart", *["touchMove"] * (len(places) - 1), "touchEnd"], points):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})


def test_a_finger_drags_the_point(opener):
    window = opener(width=360, has_touch=True, is_mobile=True)
    figure = mounted(window, "plane")
    figure.locator(".plane-top").scroll_into_view_if_needed()
    z = lambda: numbers(figure.locator(".plane-where").inner_text())
    touch, top = window.context.new_cdp_session(window), window.evaluate("scrollY")
    swipe(touch, *(plane_pixels(figure, at) for at in (z(), [0.5, 0.0], [1.0, 1.0], [1.2, 1.5])))
    assert z() == pytest.approx([1.2, 1.5], abs=0.05) and window.evaluate("scrollY") == top


def test_a_finger_beside_the_handles_scrolls_the_page_and_a_tap_moves_the_point(opener):
    window = opener(width=360, has_touch=True, is_mobile=True)
    figure = mounted(window, "plane")
    figure.locator(".plane-top").scroll_into_view_if_needed()
    z = lambda: numbers(figure.locator(".plane-where").inner_text())
    window.touchscreen.tap(*plane_pixels(figure, [-2.0, 1.5]))
    assert z() == pytest.approx([-2.0, 1.5], abs=0.05)
    touch, start, top = window.context.new_cdp_session(window), z(), window.evaluate("scrollY")
    x, y = plane_pixels(figure, [-2.5, 0.0])
    swipe(touch, *((x, y - up) for up in range(0, 160, 15)))
    window.wait_for_function("top => scrollY > top + 100", arg=top)
    assert z() == start


def test_the_axes_by_hand_and_by_keyboard(opener):
    window, model, facts = opener(), rounded("mnist-fast"), latent_axes()
    figure = mounted(window, "axes")
    picture, same = lambda: shown(figure, ".axes-shown canvas"), {"rtol": 0, "atol": 0.01}
    code = facts["codes"][2 * 7]
    figure.get_by_role("button", name="Start from a 7").press("Enter")
    torch.testing.assert_close(picture(), decode(model, code[None].float()).flatten(), **same)
    second, address = figure.get_by_role("slider").nth(1), window.url
    second.press("End")
    assert window.url == address and second.get_attribute("aria-valuetext") == "+4.0 sd"
    place = facts["directions"][1] @ (code - facts["mean"])
    end = code + (4 * facts["std"][1] - place) * facts["directions"][1]
    torch.testing.assert_close(picture(), decode(model, end[None].float()).flatten(), **same)
    window.wait_for_function("/^axis 2: .4.0 sd/.test(document.querySelector('[data-name=axes] .explorable-says').textContent)")
    assert numbers(figure.locator("[aria-live=polite]").inner_text())[-1] > 10 and "axis 2 has" in figure.get_by_role("img", name="Bars of the variance").get_attribute("aria-label")
    figure.get_by_role("button", name="single latents").press("Enter")
    loudest = facts["spread"].argmax()
    assert figure.get_by_role("slider").first.evaluate("s => s.labels[0].textContent").startswith(f"latent {loudest + 1}")
    figure.get_by_role("slider").first.press("Home")
    end[loudest] = facts["mean"][loudest] - 4 * facts["spread"][loudest].sqrt()
    torch.testing.assert_close(picture(), decode(model, end[None].float()).flatten(), **same)
    figure.get_by_role("button", name="Back to the digit").press("Enter")
    torch.testing.assert_close(picture(), decode(model, code[None].float()).flatten(), **same)
    assert numbers(figure.get_by_role("slider").first.get_attribute("aria-valuetext"))[0] == pytest.approx(((code - facts["mean"])[loudest] / facts["spread"][loudest].sqrt()).item(), abs=0.06)


@pytest.mark.parametrize("theme, width", [("light", 1280), ("dark", 360)])
def test_both_figures_in_their_place(opener, theme, width):
    "Legible, within the column, with room for a finger, and the page does not jump when they come alive."
    window = opener(theme=theme, width=width, reduced_motion="no-preference")
    window.visit(PAGE)
    heights = lambda: window.evaluate("[...document.querySelectorAll('figure.explorable')].map(f => f.clientHeight)")
    before = heights()
    mounted(window)
    assert heights() == pytest.approx(before, abs=3)
    paper = window.evaluate("getComputedStyle(document.body).backgroundColor")
    corner = window.locator(".plane-image").evaluate("c => [...c.getContext('2d').getImageData(1, 1, 1, 1).data.slice(0, 3)]")
    assert corner == pytest.approx(numbers(paper)[:3], abs=12)
    assert window.evaluate("[...document.querySelectorAll('figure.explorable')].filter(f => f.scrollWidth > f.clientWidth || f.getBoundingClientRect().right > innerWidth).length") == 0
    small = window.evaluate("[...document.querySelectorAll('.explorable-place button, .explorable-place input')].map(e => [e.getBoundingClientRect(), e.textContent]).filter(([b]) => b.height < 32 || b.width < 32).map(([b, t]) => [t, b.width, b.height])")
    assert small == []
    assert window.evaluate("document.getAnimations().filter(a => a.effect.target.closest('figure.explorable')).length") == 0
    window.evaluate((ROOT / "docs/node_modules/axe-core/axe.min.js").read_text("utf-8"))
    found = window.evaluate("axe.run('figure.explorable', { resultTypes: ['violations'] }).then(r => r.violations)")
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []
    shift = window.evaluate("""new Promise(done => { let sum = 0; new PerformanceObserver(list => list.getEntries().forEach(e => sum += e.value))
        .observe({ type: 'layout-shift', buffered: true }); setTimeout(() => done(sum), 100) })""")
    assert shift < 0.05


def test_what_is_fetched_and_when(opener, site, base):
    window, asked = opener(), []
    window.on("request", lambda r: asked.append(r.url.removeprefix(base)) if "/explorables/" in r.url else None)
    window.visit(PAGE)
    window.wait_for_load_state("networkidle")
    assert sorted(Path(name).name for name in asked) == ["explorables.css", "explorables.js"]
    for name in ("axes", "plane"):
        window.locator(f"figure[data-name={name}]").scroll_into_view_if_needed()
        window.wait_for_selector(f"figure[data-name={name}].is-alive")
    assert len(asked) == len(set(asked)) and len(asked) > 8
    size = lambda file: len(gzip.compress(file.read_bytes())) if file.suffix in (".js", ".css") else file.stat().st_size
    assert sum(size(site / name) for name in asked) <= 700_000


def test_without_javascript_the_pictures_stand_there(opener):
    window = opener(java_script_enabled=False)
    window.visit(PAGE)
    for name in ("axes", "plane"):
        figure = window.locator(f"figure[data-name={name}]")
        assert figure.locator("img").is_visible() and len(figure.locator("img").get_attribute("alt")) > 80
        assert figure.locator("canvas").count() == 0 and figure.bounding_box()["height"] < figure.locator("img").bounding_box()["height"] + 60
