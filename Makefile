# OpenSAMA: everything a fresh machine needs is Python (3.11 or newer) and make.  `make help` lists the targets.

# A Python of your choice:            make demo PYTHON=python3.13
# PyTorch's CPU wheels (smaller):     make demo TORCH_INDEX=<address of PyTorch's CPU wheel index>
# Anything else that pip understands: make demo PIP_ARGS="--proxy ..."
PYTHON ?= python3
TORCH_INDEX ?=
PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# How many test processes (one more than two cores: some tests wait), and which tests: make test TESTS=tests/media
JOBS ?= 3
# Which PyAV `make media` tests; 19 needs Python 3.12 or newer.
AV ?= 19
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check media extras fix docs site clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install OpenSAMA into it (once; again only when the dependencies change)

# The stamp is written last, so that an interrupted installation is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "OpenSAMA needs Python 3.11 or newer; name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python could not make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 2; }
	@echo "Installing into $(VENV): PyTorch and the other libraries take some minutes ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(PIP_ARGS) --editable ".[dev]"
	@touch $@

demo: $(STAMP) ## edit two clips with the embedded model on the CPU and put them beside their sources in demo-output/
	$(BIN)/opensama demo

check: $(STAMP) ## lint, format, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## everything in check, then the tests that need no GPU
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not gpu" $(TESTS)

media: ## the media tests with another PyAV, in an environment of its own without torch: make media AV=19 PYTHON=python3.13
	rm -rf .venv-media && $(PYTHON) -m venv .venv-media
	.venv-media/bin/python -m pip install --quiet $(PIP_ARGS) "av==$(AV).*" numpy pillow pytest hypothesis scikit-image
	PYTHONPATH=src .venv-media/bin/python -c 'import av; print("PyAV", av.__version__)'
	PYTHONPATH=src .venv-media/bin/python -m pytest -q -p no:cacheprovider $(or $(TESTS),tests/media --ignore=tests/media/test_frames.py --ignore=tests/media/test_cover.py)

extras: $(STAMP) ## ask pip whether each extra can be installed alone, and all of them together
	@set -e; all=$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])'); \
	rm -rf .venv-extras && $(PYTHON) -m venv .venv-extras && grep ^torch== constraints.txt > .venv-extras/torch.txt; \
	for extra in $$all $$(echo $$all | tr ' ' ','); do \
	  .venv-extras/bin/python -m pip install --quiet --dry-run --constraint .venv-extras/torch.txt $(PIP_ARGS) ".[$$extra]" && echo "$$extra: can be installed"; \
	done; rm -rf .venv-extras; $(BIN)/python -m pip check

fix: $(STAMP) ## mend what the linter and the formatter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write the generated pages anew (docs/commands.md, docs/bad-input.md, docs/bad-requests.md)
	$(BIN)/python -m opensama.apps.reference docs/commands.md
	$(BIN)/python -m tests.apps.bad_input docs/bad-input.md
	$(BIN)/python -m tests.apps.bad_requests docs/bad-requests.md

site: ## build the documentation as a site in site/, in an environment of its own
	test -x .venv-site/bin/mkdocs || { $(PYTHON) -m venv .venv-site && .venv-site/bin/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) mkdocs-material "mkdocstrings[python]" ruff; }
	.venv-site/bin/mkdocs build --strict --quiet

clean: ## remove .venv and what the tools leave behind
	rm -rf $(VENV) .venv-media .venv-extras .venv-site site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
