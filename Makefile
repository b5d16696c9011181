# One command each. Everything runs in .venv, which the first of them builds; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
CONSTRAINTS := requirements/tested.txt
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint $(CONSTRAINTS)
# The stamp's name holds a checksum of what decides the environment, so a change there, and nothing else, installs anew.
STAMP := .venv/installed-$(shell cat pyproject.toml $(CONSTRAINTS) | cksum | tr ' ' -)
DEMO_STORAGE := sqlite:///build/demo.db

.PHONY: help environment demo test quick lint format types docs docs-check site pictures bench wheel ci freeze clean
.DELETE_ON_ERROR:

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

environment: $(STAMP) ## build .venv with the tested versions

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, $(PYTHON) is %d.%d; name another: make PYTHON=python3.12 ..." % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; install its venv package (Debian: python3-venv)" >&2; exit 1; }
	@echo "Building .venv (once; torch is large)" >&2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) hatchling editables torch
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev,dashboard,docs,language,loggers,report]'
	@rm -f .venv/installed-*
	@touch $@

demo: $(STAMP) ## search on real data end to end, and print the front
	@mkdir -p build && rm -rf build/demo.db* build/demo.files
	$(BIN)/dynamoe-search run digits --storage $(DEMO_STORAGE)

test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -q

quick: $(STAMP) ## all tests but the slow ones
	$(BIN)/python -m pytest -q -m 'not slow'

lint: $(STAMP) ## style, likely bugs, format, and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

docs: $(STAMP) ## write the generated pages of docs/reference
	$(BIN)/python -m tools.reference

docs-check: $(STAMP) ## fail if a generated page is out of date
	$(BIN)/python -m tools.reference --check

site: $(STAMP) ## build the documentation as a site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures: $(STAMP) ## draw the pictures of the documentation anew, and the front in README.md, from a small search
	$(BIN)/python -m tools.pictures

bench: $(STAMP) ## measure how much training together saves; see benchmarks/README.md
	$(BIN)/python -m benchmarks.speed.step --without-transformers

wheel: $(STAMP) ## build the wheel in build/dist
	@rm -rf build/dist
	$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/dist .

ci: ## what decides whether a change may land
	bash .ci/run

freeze: $(STAMP) ## write the versions in .venv to the constraints
	@{ sed -n '/^#/p' $(CONSTRAINTS); $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9]*$$//' | grep == ; } > build/tested.txt
	@mv build/tested.txt $(CONSTRAINTS)

clean: ## remove .venv, build and caches
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
