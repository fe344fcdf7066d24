"""Build the package from settings.ini, the one place for its metadata."""
import json
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]


class WithNotebooks(build_py):
    """The package, and in what is built a copy of the chapters without their outputs, for `vae-nbdev exercises`."""

    def run(self):
        super().run()
        if self.editable_mode: return  # a clone has its notebooks beside the package
        folder = Path(self.build_lib) / cfg["lib_name"] / "assets" / "notebooks"
        shutil.rmtree(folder, ignore_errors=True)  # chapters that an earlier build knew
        folder.mkdir(parents=True)
        for path in sorted((root / cfg["nbs_path"]).glob("[0-9][0-9]_*.ipynb")):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
            (folder / path.name).write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


setup(
    cmdclass={"build_py": WithNotebooks},
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Education",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_name"]: ["assets/*", "assets/*/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split(), "compression": cfg["compression"].split()},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
)
