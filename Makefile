# Two commands: `make demo` shows everything, `make test` tests it. Both make the virtual environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CRDS := ../shared/data/kuberay-crds

.PHONY: help install demo stop test lint constraints results comparators scaling files clean

help:  ## Show what can be made.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(VENV)/installed  ## Make the virtual environment with the pinned dependencies.

$(VENV)/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; install Python 3.11 or set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## The whole pipeline on real Geant4 showers; KEEP=1 leaves the servers running.
	@$(BIN)/python deploy/demo.py $(if $(KEEP),--keep)

stop: install  ## Stop what `make demo KEEP=1` left running.
	@$(BIN)/python deploy/demo.py --stop

test: install  ## The fast tests.
	@CALOGAN_CRD_DIR=$${CALOGAN_CRD_DIR:-$(if $(wildcard $(CRDS)),$(abspath $(CRDS)))} $(BIN)/python -m pytest

lint: install  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

constraints:  ## Resolve all dependencies anew and pin them.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml -o constraints.txt

results: install  ## Measure the packaged model and write docs/results.md.
	@$(BIN)/python docs/make_results.py

comparators: install  ## Compare int8 with TFLite, ONNX Runtime and OpenVINO; write docs/comparators.md. Needs the extra peers.
	@$(BIN)/python docs/compare_precisions.py

scaling: install  ## Measure what a second worker brings to a training; write docs/distributed_training.md.
	@$(BIN)/python docs/measure_scaling.py

files: install  ## Measure the files of showers and write docs/files.md.
	@$(BIN)/python docs/measure_files.py

clean: stop  ## Remove what the demo has written.
	rm -rf .demo
