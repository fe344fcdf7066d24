# Everything runs in .venv, which the first command makes. `make help` lists the commands.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/mnist
NODE := docs/node_modules/katex/package.json
AUDIT := docs/node_modules/lighthouse/package.json
TEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup
NOTEBOOKS := $(sort $(wildcard nbs/*.ipynb))

.PHONY: help install train test check notebooks export readme docs serve clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed  ## make .venv with the package, editable, and what developing it needs

.venv/installed: settings.ini setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q --constraint constraints.txt --editable ".[dev]"
	@touch $@

train: .venv/installed  ## train a VAE on MNIST, draw its pictures (a second time: show the result)
	$(BIN)/vae-nbdev train --recipe fast --out $(RUN) $(if $(wildcard $(RUN)/config.json),--resume)

test: .venv/installed $(if $(shell command -v npm),$(AUDIT))  ## run everything that tests
	$(TEST)

check: .venv/installed  ## run the quick tests: export in sync, notebooks' form, units (a minute)
	$(TEST) -m "not slow"

notebooks: .venv/installed  ## execute all notebooks in place, then clean them
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --CoalesceStreamsPreprocessor.enabled=True $(NOTEBOOKS)
	$(BIN)/nbdev_clean

export: .venv/installed  ## write the package from the notebooks
	$(BIN)/nbdev_export

readme: .venv/installed  ## write README.md, and the Colab links, from nbs/index.ipynb and settings.ini
	$(BIN)/python docs/readme.py

docs: .venv/installed $(NODE)  ## build the site in docs/_build/html
	@mkdir -p docs/_build/src
	$(BIN)/sphinx-build -q -W --keep-going -c docs -d docs/_build/doctrees docs/_build/src docs/_build/html

serve: .venv/installed $(NODE)  ## show the site, and rebuild it on change
	@mkdir -p docs/_build/src
	$(BIN)/sphinx-autobuild -c docs -d docs/_build/doctrees --watch nbs --watch docs --watch vae_nbdev --ignore "*/docs/_build/*" docs/_build/src docs/_build/html

$(NODE): docs/package.json docs/package-lock.json
	@command -v npm >/dev/null || { echo "The site needs Node.js 18 or later and its npm: install it from nodejs.org or your system's packages." >&2; exit 1; }
	npm ci --silent --omit=dev --prefix docs
	@touch $@

$(AUDIT): docs/package.json docs/package-lock.json
	npm ci --silent --prefix docs
	@touch $@ $(NODE)

clean:  ## remove what the other commands made
	rm -rf .venv build dist *.egg-info docs/_build docs/node_modules .pytest_cache .hypothesis
