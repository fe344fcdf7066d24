"""The site, built once and served from loopback, and a browser that can reach nothing else."""
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
NEEDED = {
    lambda: shutil.which("chromium"): "no Chromium: apt-get install -y chromium",
    lambda: shutil.which("node"): "no Node.js: apt-get install -y nodejs npm",
    (ROOT / "docs/node_modules/axe-core").exists: "what the site takes from npm is missing: npm ci --prefix docs",
}


@pytest.fixture(scope="session")
def build(tmp_path_factory, worker_id):
    "The site's folder, and what Sphinx had to say; test processes share it."
    for there, remedy in NEEDED.items():
        if not there(): pytest.skip(remedy)
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "site"
    with FileLock(f"{folder}.lock"):
        if not (folder / "said").exists():
            (folder / "src").mkdir(parents=True)
            done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-c", ROOT / "docs", "-d", folder / "doctrees", folder / "src", folder / "html"],
                                  cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / "said").write_text(done.stderr, "utf-8")
    return folder / "html", (folder / "said").read_text("utf-8")


@pytest.fixture(scope="session")
def site(build):
    return build[0]


@pytest.fixture(scope="session")
def pages(site):
    "Every page by its path, parsed."
    bs4 = pytest.importorskip("bs4", reason="the site's tools are missing: pip install -e '.[dev]'")
    return {p.relative_to(site).as_posix(): bs4.BeautifulSoup(p.read_text("utf-8"), "html.parser")
            for p in sorted(site.rglob("*.html")) if "_static" not in p.parts}


@pytest.fixture(scope="session")
def base(site, settings):
    "The site's address on this machine: below its path, and with 404.html for what is not there, as GitHub Pages serves it."
    root = settings["doc_baseurl"] + "/"

    class Pages(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
        def translate_path(self, path): return super().translate_path("/" + path.removeprefix(root) if path.startswith(root) else "/nowhere")
        def send_error(self, code, *args):
            page = (site / "404.html").read_bytes()
            self.send_response(404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command != "HEAD": self.wfile.write(page)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{root}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the site's tools are missing: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture
def opener(browser, base):
    "Open pages in one window; whatever goes wrong on any of them fails the test."
    problems, contexts = [], []

    def window(width=1280, theme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme, **{"reduced_motion": "reduce"} | options)
        contexts.append(context)
        context.route(re.compile(f"^(?!{re.escape(base)})(?!data:|blob:).*"), lambda route: (problems.append(f"foreign: {route.request.url}"), route.abort()))
        page = context.new_page()
        page.on("console", lambda m: problems.append(f"{page.url}: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(f"{page.url}: {e}"))
        page.on("requestfailed", lambda r: problems.append(f"failed: {r.url}") if r.failure != "net::ERR_ABORTED" else None)
        page.on("response", lambda r: problems.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.visit = lambda path: page.goto(base + path, wait_until="load")
        return page

    yield window
    for context in contexts: context.close()
    assert not problems, "\n".join(dict.fromkeys(problems))


@pytest.fixture(scope="module")
def page(browser, base):
    "An empty page beside the scripts of the figures, to import them."
    page = browser.new_page()
    page.goto(f"{base}_static/explorables/explorables.css")
    yield page
    page.close()
