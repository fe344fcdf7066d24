"""Write README.md from nbs/index.ipynb, and the links that depend on settings.ini into every notebook.

`python docs/readme.py` writes; `python docs/readme.py --check` only says which files are not current.
"""
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"0": "Foundations", "1": "Understanding", "2": "Beyond", "3": "Engineering", "9": "Reference"}


def settings() -> dict:
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(ini["DEFAULT"])


def colab(cfg: dict, name: str) -> str:
    return f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs/{name}.ipynb"


def relink(text: str, cfg: dict) -> str:
    """Every link to Colab and every installation from the repository, as settings.ini has it."""
    text = re.sub(r"https://colab\.research\.google\.com/github/[^\s\")]*/nbs/(\w+)\.ipynb", lambda m: colab(cfg, m[1]), text)
    return re.sub(r"git\+https://github\.com/[^\s\"@]+@\w+", f"git+{cfg['git_url']}@{cfg['branch']}", text)


def chapter_table(notebooks: dict, cfg: dict) -> str:
    """Title and subtitle of each chapter, with a link to read it and one to run it."""
    rows = ["| | chapter | what it is for | run it |", "|---|---|---|---|"]
    part = None
    for name, nb in notebooks.items():
        if name == "index": continue
        title, subtitle = re.match(r"# (.+)\n> (.+)", "".join(nb["cells"][0]["source"])).groups()
        first, part = PARTS[name[0]] if PARTS[name[0]] != part else "", PARTS[name[0]]
        rows.append(f"| {first} | [{title}]({name}.ipynb) | {subtitle} | [Colab]({colab(cfg, name)}) |")
    return "\n".join(rows)


def with_chapters(text: str, notebooks: dict, cfg: dict) -> str:
    """The current table of chapters between the two comments that mark its place, if they are there."""
    if "<!-- chapters -->" not in text: return text
    head, _, rest = text.partition("<!-- chapters -->")
    return f"{head}<!-- chapters -->\n\n{chapter_table(notebooks, cfg)}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def as_lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def update_notebooks(notebooks: dict, cfg: dict) -> dict[Path, str]:
    """The notebooks with current links; the index with the current table of chapters."""
    made = {}
    for name, nb in notebooks.items():
        for cell in nb["cells"]:
            text = relink("".join(cell["source"]), cfg)
            cell["source"] = as_lines(with_chapters(text, notebooks, cfg) if name == "index" else text)
        made[ROOT / f"nbs/{name}.ipynb"] = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return made


def readme(index: dict) -> dict[Path, str | bytes]:
    """README.md and its pictures: the index without hidden cells and without nbdev's directives."""
    nb = nbformat.reads(json.dumps(index), as_version=4)
    nb.metadata["language_info"] = {"name": "python"}  # the language of the code blocks
    cells = []
    for cell in nb.cells:
        directives = re.findall(r"^#\|\s*(.+)$", cell.source, flags=re.M) if cell.cell_type == "code" else []
        if "hide" in directives: continue
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        if "echo: false" in directives: cell.metadata["transient"] = {"remove_source": True}
        cell.metadata["alt"] = next((d.partition(":")[2].strip() for d in directives if d.startswith("fig-alt:")), "")
        cells.append(cell)
    alts = [c.metadata.pop("alt") for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    nb.cells = cells
    exporter = MarkdownExporter()
    body, resources = exporter.from_notebook_node(nb, {"unique_key": "readme", "output_files_dir": "docs/images"})
    body = re.sub(r"\]\((\w+\.ipynb)", r"](nbs/\1", body)
    for alt in alts: body = body.replace("![png]", f"![{alt}]", 1)
    body = re.sub(r"\[!\[Open in Colab\].*\n", "", body)
    body = re.sub(r"\n{3,}", "\n\n", re.sub(r"^ +$", "", body, flags=re.M)).strip() + "\n"
    pictures = {ROOT / path: content for path, content in resources.get("outputs", {}).items()}
    return {ROOT / "README.md": body, **pictures}


def main() -> int:
    cfg = settings()
    notebooks = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "nbs").glob("[!._]*.ipynb"))}
    made = update_notebooks(notebooks, cfg)
    made |= readme(notebooks["index"])
    stale = [p for p, content in made.items()
             if not p.exists() or (p.read_bytes() if isinstance(content, bytes) else p.read_text(encoding="utf-8")) != content]
    if "--check" in sys.argv:
        for path in stale: print(f"{path.relative_to(ROOT)} is not current: run make readme")
        return bool(stale)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[path] if isinstance(made[path], bytes) else made[path].encode())
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
