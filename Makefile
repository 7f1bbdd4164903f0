# The two commands: `make demo` shows the tool at work, `make test` runs its tests.
# Both make the environment first. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One worker a core, one thread a worker: more threads than cores only wait.
JOBS ?= auto
PYTEST_ARGS ?=
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

DEMO_OUT := runs/demo
DEMO_WEIGHTS := runs/demo-weights.safetensors
DEMO_ARGS := mlp --data digits --loss cross_entropy --weights $(DEMO_WEIGHTS) \
	--num-probes 16 --num-steps 128 --z 0.001 0.01 0.1 --out $(DEMO_OUT)

BENCH_SUITES := products top density many layers

.PHONY: help setup demo test test-slow test-integrations test-gpu check format lint \
	layers types doctest docs bench bench-quick bench-exact bench-setup clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv with everything that the other targets need

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; set PYTHON=" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[all,dev,docs]'
	@touch $@

demo: setup ## analyse a small network on real data, and say where the report lies
	$(BIN)/python examples/train_digits.py $(DEMO_WEIGHTS)
	$(BIN)/curvescope analyze $(DEMO_ARGS)

test: setup ## run the fast tests
	$(PYTEST) -n $(JOBS)

test-slow: setup ## run the tests that take longer
	$(PYTEST) -n $(JOBS) -m "slow and not gpu and not download"

test-integrations: setup ## install Lightning, transformers, TensorBoard; test the callbacks
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt \
		-e '.[lightning,huggingface,tensorboard]'
	$(PYTEST) tests/unit/callbacks

test-gpu: setup ## run the tests that need a CUDA device
	$(PYTEST) -m "gpu"

check: format lint layers types doctest docs ## all that a machine can check without the tests

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

layers: setup
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

doctest: setup
	$(PYTEST) --doctest-modules src/curvescope

docs: setup ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -n -W --keep-going -q -b html docs docs/_build/html

bench-setup: setup ## make the benchmark's own environments, one a peer
	bash benchmarks/setup.sh

bench: setup ## time all suites on networks against the peers (about 70 minutes)
	for suite in $(BENCH_SUITES); do \
		$(BIN)/python benchmarks/run.py --suite $$suite || exit 1; done

bench-quick: setup ## try each suite on a small problem; writes no tables
	for suite in $(BENCH_SUITES) exact; do \
		$(BIN)/python benchmarks/run.py --suite $$suite --quick || exit 1; done

bench-exact: setup ## time whole float64 matrices against torch.func and JAX
	$(BIN)/python benchmarks/run.py --suite exact

clean: ## remove what was built, but not .venv nor runs
	rm -rf build dist docs/_build docs/reference/generated
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples docs -name __pycache__ -type d -prune \
		-exec rm -rf {} + 2>/dev/null || true
