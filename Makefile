# Two commands: `make demo` shows everything, `make test` tests it. Both make the virtual environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CRDS := ../shared/data/kuberay-crds

.PHONY: help install demo stop test lint constraints results comparators families scaling training-log files clean

help:  ## Show what can be made.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

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
	@$(BIN)/python docs/scripts/make_results.py

comparators: install  ## Compare int8 with TFLite, ONNX Runtime and OpenVINO; write docs/comparators.md. Needs the extra peers.
	@$(BIN)/python docs/scripts/compare_precisions.py

families: install  ## Train all families on the Geant4 showers in SHOWERS, compare them, write docs/families.md; hours.
	@test -n "$(SHOWERS)" || { echo "name a file of Geant4 showers: make families SHOWERS=showers.h5"; exit 1; }
	@$(BIN)/python docs/scripts/compare_families.py --showers $(SHOWERS)

training-log: install  ## Search for a better lean, write docs/training-log.md; half an hour. SHOWERS names Geant4 showers.
	@$(BIN)/python docs/scripts/log_training.py $(if $(SHOWERS),--showers $(SHOWERS))

scaling: install  ## Measure what a second worker brings to a training; write docs/distributed_training.md.
	@$(BIN)/python docs/scripts/measure_scaling.py

files: install  ## Measure the files of showers and write docs/files.md.
	@$(BIN)/python docs/scripts/measure_files.py

clean: stop  ## Remove what the demo has written.
	rm -rf .demo
