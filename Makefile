# Two commands: `make demo` shows everything, `make test` tests it. Both create the virtual environment first.
VERSIONS := 3.11 3.12 3.13
VENV := .venv
BIN := $(VENV)/bin
CRDS := ../shared/data/kuberay-crds

IS_SUPPORTED := 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(VERSIONS)".split())'
# The first interpreter that runs: a name on the path may be a version manager's stub for a missing version.
PYTHON ?= $(shell for name in $(VERSIONS:%=python%) python3; do \
	$$name -c $(IS_SUPPORTED) 2>/dev/null && echo $$name && break; done)
# uv accepts the same options and is faster; it is used if it is installed.
INSTALL = $(if $(shell uv --version 2>/dev/null),uv pip install --python $(BIN)/python,\
	$(BIN)/python -m pip install --disable-pip-version-check) --quiet \
	--constraint constraints/$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt

.PHONY: help install demo stop test e2e lint docs wheel constraints clean

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(VENV)/installed  ## Create the virtual environment with the pinned dependencies.

$(VENV)/installed: pyproject.toml $(wildcard constraints/*.txt)
	@test -x $(BIN)/python || $(or $(PYTHON),false) -c $(IS_SUPPORTED) 2>/dev/null || \
		{ echo "no supported Python: install one of $(VERSIONS), or name it with PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) --editable '.[docs]'
	touch $@

demo: install  ## The whole pipeline on real Geant4 showers; KEEP=1 leaves the servers running.
	@$(BIN)/python deploy/demo.py $(if $(KEEP),--keep)

stop: install  ## Stop what `make demo KEEP=1` left running.
	@$(BIN)/python deploy/demo.py --stop

test: install  ## The fast tests.
	@CALOGAN_CRD_DIR=$${CALOGAN_CRD_DIR:-$(if $(wildcard $(CRDS)),$(abspath $(CRDS)))} $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# One at a time, and in order: the tests follow one installation through its life.
e2e: install  ## Install the chart in the cluster of KUBECONFIG and disturb it; writes docs/operations-results.md.
	CALOGAN_E2E=page $(BIN)/python -m pytest -m slow tests/e2e

lint: install  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A generated page does not need the site's tools, and hours of measurement must not end with a download.
docs: $(VENV)/installed$(if $(PAGE),,-docs)  ## Build the site into site/; PAGE=results regenerates that page instead, PAGE=all every page.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python $(if $(PAGE),docs/scripts/make_page.py $(PAGE) $(if $(SHOWERS),--showers $(SHOWERS)),\
		-m mkdocs build --strict --quiet)

wheel: install  ## Build the wheel into dist/, then test it in a fresh environment and another folder.
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

constraints: install  ## Resolve all dependencies and pin them, for each Python; FRESH=1 upgrades all.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	for version in $(VERSIONS); do $(BIN)/uv pip compile --quiet $(if $(FRESH),--upgrade) --python-version $$version \
		--all-extras --no-header --no-annotate pyproject.toml --output-file constraints/$$version.txt || exit; done

clean: stop  ## Remove the files of the demo and the site.
	rm -rf .demo site
