"""Write the inventories that tell intersphinx where other projects document a name; the build asks no network.

`python docs/inventories/make.py objects.inv`: Python's own, as in Debian's python3-doc, less what a word in backticks
does not mean here (C, labels, types and modules without a dot). The others publish theirs on the web alone, so these
are made from the installed packages: each public name at the address that the project gives to names of its module.
"""
import inspect
import sys
import zlib
from pathlib import Path
from pydoc import locate

from sphinx.util.inventory import InventoryFile

NAME = "generated/{}.html"  # a page for each name
PAGES = {  # module or class: where its names are, and where it is itself
    "torch": {"torch": (NAME, "torch.html"), "torch.Tensor": (NAME, "tensors.html"), "torch.nn": (NAME, "nn.html"),
              "torch.nn.functional": (NAME, "nn.functional.html"), "torch.optim": (NAME, "optim.html"), "torch.optim.lr_scheduler": (NAME, "optim.html"),
              "torch.autograd": (NAME, "autograd.html"), "torch.cuda": (NAME, "cuda.html"), "torch.linalg": (NAME, "linalg.html"),
              **{f"torch.{name}": (page, page) for name, page in {
                  "device": "tensor_attributes.html", "dtype": "tensor_attributes.html", "autocast": "amp.html", "amp": "amp.html",
                  "nn.init": "nn.init.html", "distributions": "distributions.html", "testing": "testing.html", "profiler": "profiler.html",
                  "utils.data": "data.html", "utils.benchmark": "benchmark_utils.html"}.items()}},
    "torchvision": {"torchvision.datasets": (NAME, "datasets.html")},
    "numpy": {"numpy": (NAME, "index.html"), "numpy.linalg": (NAME, "routines.linalg.html")},
    "matplotlib": {"matplotlib.pyplot": ("_as_gen/{}.html", "pyplot_summary.html"), "matplotlib.figure.Figure": ("figure_api.html", "figure_api.html")},
}
SHORT = {"numpy.": "np.", "matplotlib.pyplot.": "plt.", "torch.nn.": "nn.", "torch.nn.functional.": "F.", "torch.optim.": "optim."}
SHORTER = {"torch.Tensor": "Tensor", "torch.utils.data.DataLoader": "DataLoader", "torch.utils.data.TensorDataset": "TensorDataset",
           "pathlib.Path": "Path"}


def python(path):
    "name -> (role, address), from Python's inventory."
    inventory = InventoryFile.loads(path.read_bytes(), uri="").data
    return {name: (role, item.uri.lstrip("/")) for role, names in inventory.items() for name, item in names.items()
            if role.startswith("py:") and ("." in name or role in ("py:exception", "py:function"))}


def installed(project):
    "name -> (role, address), from an installed package; a class also by the module that defines it, as annotations have it."
    found = {}
    for owner, (page, own) in PAGES[project].items():
        members = {f"{owner}.{n}": thing for n in dir(locate(owner)) if not n.startswith("_") and (thing := getattr(locate(owner), n, None)) is not None}
        for name, thing in members.items():
            if type(thing).__name__ == "dtype": found[name] = "py:class", "tensor_attributes.html#torch.dtype"
            home = getattr(thing, "__module__", None) or project
            if not callable(thing) or not home.startswith(owner if inspect.isclass(thing) else project): continue
            found[name] = "py:class" if inspect.isclass(thing) else "py:function", f"{page.format(name)}#{name}"
            if inspect.isclass(thing): found[f"{home}.{thing.__name__}"] = found[name]
        found[owner] = ("py:class", f"{own}#{owner}") if inspect.isclass(locate(owner)) else ("py:module", f"{own}#module-{owner}")
    return found


def write(project, version, found):
    "An inventory in Sphinx's format, the short forms of its names added."
    for name, entry in list(found.items()):
        for long, short in SHORT.items():
            if name.startswith(long): found[short + name.removeprefix(long)] = entry
        if name in SHORTER: found[SHORTER[name]] = entry
    lines = "".join(f"{name} {role} 1 {address} -\n" for name, (role, address) in sorted(found.items()))
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: {version}\n# The remainder of this file is compressed using zlib.\n"
    Path(__file__).with_name(f"{project}.inv").write_bytes(head.encode() + zlib.compress(lines.encode(), 9))


write("python", "3.11", python(Path(sys.argv[1])))
for project in PAGES: write(project, locate(project).__version__, installed(project))
