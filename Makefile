PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench bench-encode bench-index bench-detect bench-patches clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## set everything up and mine 2,624 photographs of solar cells
	$(BIN)/longtail demo

test: lint ## set everything up and pass every check: lint, types, layers, tests
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## format, lint, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code and mend what ruff can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: bench-encode bench-index bench-detect bench-patches ## all benchmarks; they write benchmarks/results/

bench-encode: $(VENV)/.bench ## measure decoding, encoding and ingest; QUICK=1 for a minute's worth
	$(BIN)/python -m benchmarks.encode $(if $(QUICK),--quick)

bench-index: $(VENV)/.bench ## measure the index beside its rivals; QUICK=1 for a minute's worth
	$(BIN)/python -m benchmarks.index $(if $(QUICK),--quick)

bench-detect: $(VENV)/.rivals ## detection beside its rivals; QUICK=1 for a minute's worth
	$(BIN)/python -m benchmarks.detect $(if $(QUICK),--quick)

bench-patches: $(VENV)/.bench ## scores of patches beside those of whole images
	$(BIN)/python -m benchmarks.patches

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, installed editable by every target, so that each can add to what another made.
$(VENV)/.demo: EXTRAS := cpu,openvino,demo
$(VENV)/.dev: EXTRAS := cpu,dev
$(VENV)/.bench: EXTRAS := cpu,openvino,demo,bench

$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(INSTALL) '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.rivals: $(VENV)/.bench # what the rivals compile in their first call
	$(BIN)/python -c 'from benchmarks.detect_rivals import warm_up; warm_up()'
	@touch $@

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)
