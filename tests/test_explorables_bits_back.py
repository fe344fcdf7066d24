"""Bits back in the browser: every state of the stack is that of the package's coder, and nothing is lost."""
import math

import numpy as np
import pytest

from vae_nbdev import explorables, pretrained
from vae_nbdev.compression import Coder, Stack, Table, get, get_all, put, put_all
from vae_nbdev.data import binarize, load_mnist

pytestmark = pytest.mark.slow
PAGE, FIGURE = "23_compression.html", "figure.explorable[data-name=bits-back]"
IMAGES, MANY = 5, 200  # those of the page, walked symbol by symbol; those whose stack is compared in the middle
PICTURE = "f => document.querySelector(f + ' canvas').toDataURL()"

RUN = """async file => {
  const { history, imageOf, priorTable } = await import("./ans.js"), { read } = await import("./load.js");
  const data = await read(`./${file}/bits-back.safetensors`), prior = priorTable();
  return { facts: data.facts, prior, images: data.facts.labels.map((_, i) => {
    const image = imageOf(data, i), { steps, x, packed, ends } = history(image, prior, data.facts.seeds);
    return { ...image, x, packed: packed.map(Number), ends, steps: steps.map(s => [`${s.head}`, s.words, s.borrowed, s.bits]) };
  }) };
}"""


MIDDLE = """async () => {
  const { history, imageOf, priorTable } = await import("./ans.js"), data = await (await import("./load.js")).read("./many/bits-back.safetensors"), prior = priorTable();
  return data.facts.labels.map((_, i) => {
    const image = imageOf(data, i), { steps, x, packed, ends } = history(image, prior, data.facts.seeds), middle = steps[ends[2]], end = steps.at(-1);
    return { words: packed.map(Number), head: `${middle.head}`, kept: middle.words, again: x.join() === image.pixels.join(), back: end.head === steps[0].head && end.bits === steps[0].bits };
  });
}"""


@pytest.fixture(scope="module")
def coder():
    return Coder(pretrained("mnist-fast"), (1, 28, 28))


@pytest.fixture(scope="module")
def images():
    import torch
    x, labels = load_mnist("test")
    return binarize(x, generator=torch.Generator().manual_seed(0))[:MANY].flatten(1).long().numpy(), labels[:MANY].tolist()


@pytest.fixture(scope="module")
def found(page):
    "What the figure computes, for all of its images."
    return page.evaluate(RUN, "data")


def test_200_stacks_in_the_middle_are_the_package_s(page, coder, images, tmp_path):
    """A data file as the page's own, of more digits: what `compress` writes of each, and nothing is lost on the way back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorables, "FILES", {"bits-back": lambda bits: explorables.bits_back(MANY)})
        explorables.write_explorables(tmp_path)
    page.route("**/many/*", lambda route: route.fulfill(path=tmp_path / "bits-back.safetensors"))
    stacks = page.evaluate(MIDDLE)
    assert len(stacks) == MANY
    for k, ours in zip(images[0], stacks):
        head = int(ours["head"])
        words = np.array([*ours["words"], head % 2**32, head >> 32], np.uint32)
        assert np.array_equal(words, put_all(coder, k[None], 1).all()) and ours["kept"] == len(words) - 2
        assert ours["again"] and ours["back"]


def part(table, j):
    "A table of column j alone."
    one = lambda v: v[:, j:j + 1] if np.ndim(v) else v
    return Table(table.below, one(table.row), one(table.size), one(table.first))


def walk(coder, k):
    "The package's coder, symbol by symbol, there and back: its stack after each step, and the stack in the middle."
    stack, seen = Stack(), []
    def note(): seen.append([str(int(stack.states[0])), len(stack.words.kept), stack.words.borrowed])
    def off(table):
        out = []
        for j in range(table.row.shape[1]):
            out.append(get(stack, part(table, j)))
            note()
        return np.concatenate(out, 1)
    def on(table, values):
        for j in reversed(range(values.shape[1])):
            put(stack, part(table, j), values[:, j:j + 1])
            note()
    stack.open(1)
    note()
    z = off(coder.posterior(k))
    on(coder.likelihood(z), k)
    on(coder.prior(1), z)
    packed = stack.all()
    z = off(coder.prior(1))
    assert np.array_equal(off(coder.likelihood(z)), k)
    on(coder.posterior(k), z)
    return seen, packed


@pytest.mark.parametrize("i", range(IMAGES))
def test_every_state_is_the_package_s(found, coder, images, i):
    k, ours = images[0][i:i + 1], found["images"][i]
    seen, packed = walk(coder, k)
    assert [step[:3] for step in ours["steps"]] == seen and len(seen) == 1 + 2 * (20 + 784 + 20)
    assert found["facts"]["labels"][i] == images[1][i] and ours["pixels"] == k[0].tolist() == ours["x"]
    head = int(ours["steps"][ours["ends"][2]][0])
    words = np.array([*ours["packed"], head % 2**32, head >> 32], np.uint32)
    assert np.array_equal(words, packed) and np.array_equal(packed, put_all(coder, k, 1).all())  # what `compress` writes
    assert np.array_equal(get_all(coder, words, 1, 1), k)
    start, end = ours["steps"][0], ours["steps"][-1]
    assert start[0] == end[0] and start[3] == end[3]  # the bits are back


@pytest.mark.parametrize("i", range(IMAGES))
def test_the_sum_is_the_bound_s(found, coder, images, i):
    """The stack grows by Eq. (23.5) to a hundredth of a bit, and that is a sample of the negative ELBO."""
    import torch
    from vae_nbdev.elbo import elbo_terms
    from vae_nbdev.model import inference
    ours, k = found["images"][i], images[0][i:i + 1]
    def bits(below, at): return -math.log2((below[at + 1] - below[at]) / 2**24)
    (stack := Stack()).open(1)
    z = get(stack, coder.posterior(k))[0]
    eq = sum(bits(found["prior"]["below"], v - found["prior"]["first"]) for v in z) - sum(bits(q["below"], v - q["first"]) for q, v in zip(ours["q"], z))
    eq += sum(bits(coin["below"], v) for coin, v in zip(ours["coins"], k[0]))
    grown = ours["steps"][ours["ends"][2]][3] - ours["steps"][0][3]
    assert grown == pytest.approx(eq, abs=0.01)
    x = torch.from_numpy(k).float().reshape(1, 1, 28, 28).expand(2000, -1, -1, -1)
    with inference(model := pretrained("mnist-fast")): nats = sum(elbo_terms(model, x, torch.Generator().manual_seed(1)))
    elbo = nats / math.log(2)
    assert found["facts"]["elbo"][i] == pytest.approx(elbo.mean().item(), abs=1)
    assert abs(grown - elbo.mean()) < 4 * elbo.std() and grown < 250


def test_tables_are_the_package_s(found, coder, images):
    q = coder.posterior(images[0][:IMAGES])
    for i, image in enumerate(found["images"]):
        for j, table in enumerate(image["q"]):
            row, size = q.row[i, j], q.size[i, j]
            assert table["below"] == q.below[row:row + size + 1].tolist() and table["first"] == q.first[i, j]
    assert found["prior"]["below"] == coder.codes.below.tolist()


def alive(page):
    page.visit(PAGE)
    page.locator(FIGURE).scroll_into_view_if_needed()
    page.wait_for_selector(f"{FIGURE}.is-alive")
    return page, page.locator(FIGURE)


def test_buttons_slider_and_pointer_move_through_the_steps(opener, found):
    page, figure = alive(opener())
    slider, press = figure.get_by_role("slider"), lambda name: figure.get_by_role("button", name=name, exact=True).click()
    lines = lambda: figure.locator(".bits-lines > :nth-child(even)").all_inner_texts()
    at = lambda i, s: f"{found['images'][i]['steps'][s][3] - found['images'][i]['steps'][0][3]:.1f}".replace("-", "−")
    enabled = lambda: [figure.get_by_role("button", name=name, exact=True).is_enabled() for name in ("Back", "Next", "Next move", "Play")]
    assert slider.input_value() == "0" and "waiting" in lines()[0] and enabled() == [False, True, True, True]
    press("Next"), press("Next"), press("Back")
    assert slider.input_value() == "1" and lines()[0].startswith("z1 = ") and at(0, 1) in lines()[1]
    assert f"{int(found['images'][0]['steps'][1][0]):,}" in lines()[2]
    press("Next move"), press("Next move"), press("Next move")
    assert slider.input_value() == "824" and at(0, 824) in lines()[1]
    press("Play")  # with reduced motion to the end of the move
    assert slider.input_value() == "844" and lines()[0].startswith("z20")
    figure.get_by_role("button", name=f"Digit {found['facts']['labels'][3]}").click()
    assert slider.input_value() == "0"
    box = (canvas := figure.locator("canvas")).bounding_box()
    page.mouse.click(box["x"] + box["width"] - 70, box["y"] + box["height"] / 2)
    assert 780 < int(slider.input_value()) <= 824
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "1648" and at(3, 1648) in lines()[1] and enabled() == [True, False, False, True]
    page.wait_for_function(f"document.querySelector('{FIGURE} [role=status]').textContent.startsWith('Step 1648 of 1648')")
    assert "after step 1648" in canvas.get_attribute("aria-label")
    press("Back"), press("Next move")
    assert slider.input_value() == "1648"  # the end of the last move, not the start


def test_with_the_keyboard_alone(opener):
    page, figure = alive(opener())
    figure.get_by_role("button").first.focus()
    for _ in range(6): page.keyboard.press("Tab")  # four other digits, then the slider, then Next: there is no step back yet
    page.keyboard.press("Enter")
    assert figure.get_by_role("slider").input_value() == "1"
    page.keyboard.press("Shift+Tab"), page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    assert figure.get_by_role("slider").input_value() == "2" and page.url.endswith(PAGE)


def test_play_moves_where_motion_is_welcome(opener):
    page = opener(reduced_motion="no-preference")
    page.clock.install()
    page, figure = alive(page)
    slider = figure.get_by_role("slider")
    figure.get_by_role("button", name="Play").click()
    page.clock.run_for(500)
    assert int(slider.input_value()) >= 3
    figure.get_by_role("button", name="Pause").click()
    stood = slider.input_value()
    page.clock.run_for(1000)
    assert slider.input_value() == stood and figure.get_by_role("button", name="Play").is_visible()


WRITTEN = """window.written = [];
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (words, ...at) { written.push(words); return write.call(this, words, ...at); };"""


@pytest.mark.parametrize("width", [1280, 360])
def test_axis_and_lines_say_what_they_count(opener, width):
    (page := opener(width=width)).add_init_script(WRITTEN)
    page, figure = alive(page)
    assert {"bits", "negative ELBO", "stack", "image x", "code z"} <= {*page.evaluate("written")}
    assert figure.locator(".bits-lines > :nth-child(odd)").all_inner_texts() == ["Step", "Growth", "Stack"]
    chip, canvas = figure.get_by_role("button").first.bounding_box(), figure.locator("canvas").bounding_box()
    assert canvas["y"] >= chip["y"] + chip["height"] + 8  # they do not touch


def test_on_a_phone_light_and_dark(opener):
    page, figure = alive(opener(width=360))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(b["height"] >= 32 and b["width"] >= 32 for b in (node.bounding_box() for node in figure.get_by_role("button").all()))
    light = page.evaluate(PICTURE, FIGURE)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"([f, light]) => ({PICTURE})(f) !== light", arg=[FIGURE, light])
    assert len(light) > 5000


def test_without_javascript_the_picture_stays(opener):
    page = opener(java_script_enabled=False)
    page.visit(PAGE)
    assert page.locator(f"{FIGURE} img").is_visible() and not page.locator(f"{FIGURE} canvas").count()
