"""The picture that messages and search engines show beside a link to the site, 1200 x 630. Run once: `python docs/card.py`.

Chromium sets it in the site's typefaces (npm ci --prefix docs); the title and the sentence are those of settings.ini.
"""
import io
import shutil
from configparser import ConfigParser
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
PAGE = """<!doctype html><meta charset="utf-8"><style>
@font-face {{ font-family: Inter; font-weight: 100 900; src: url("node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2"); }}
body {{ margin: 0; width: 1200px; height: 630px; background: #fff; color: #1b1e28; font-family: Inter; position: relative; overflow: hidden; }}
h1 {{ position: absolute; left: 64px; top: 56px; margin: 0; font: 800 40px/1 Inter; letter-spacing: -.03em; color: #2f4ac0; display: flex; align-items: center; gap: 18px; }}
h1 img {{ width: 52px; height: 52px; }}
p {{ position: absolute; left: 64px; top: 132px; width: 1072px; margin: 0; font: 800 38px/1.2 Inter; letter-spacing: -.035em; }}
.hero {{ position: absolute; left: 64px; width: 1072px; bottom: 0; }}
</style><h1><img src="static/favicon.svg">{title}</h1><p>{description}</p><img class="hero" src="static/hero.webp">"""


def draw():
    "The card, of few colours so that it is a small file."
    ini = ConfigParser(delimiters=["="])
    ini.read(HERE.parent / "settings.ini", encoding="utf-8")
    page = HERE / "card.html"  # beside what it shows
    page.write_text(PAGE.format_map(ini["DEFAULT"]), "utf-8")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
            window = browser.new_page(viewport={"width": 1200, "height": 630})
            window.goto(page.as_uri())
            window.evaluate("document.fonts.ready")
            picture = window.screenshot()
            browser.close()
    finally: page.unlink()
    return Image.open(io.BytesIO(picture)).convert("RGB").quantize(96, dither=Image.Dither.NONE)


if __name__ == "__main__":
    draw().save(HERE / "static" / "card.png", optimize=True)
