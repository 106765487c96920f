# Every command a contributor needs; `make` lists them.

PYTHON ?= python3
# Passed to pip, for instance to name an index that has the wheels of another torch build.
PIP_FLAGS ?=

# Tests start processes by the dozen: each would compile our modules anew.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv real-inputs demo test lint format prometheus dashboards chromium vendor test-slow test-processors test-gpu bench chaos crashes \
	simulate wheel clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## set up .venv with everything the tests and the demo need

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable '.[test]'
	@touch $@

real-inputs: $(INSTALLED) ## fetch the real models, data and chat templates into the cache, 250 MB, once
	@$(BIN)/python -m tests.real_inputs.fetch

demo: real-inputs ## train unlike tasks together on one real model and show what each learned
	$(BIN)/python -m tests.demo

test: lint real-inputs ## lint, then all tests but the slow ones and those for a GPU
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 15

lint: $(INSTALLED) ## ruff, pyright, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(INSTALLED) ## let ruff mend and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

prometheus: ## install the Prometheus that the tests of metrics ask, where we may (Debian, as root)
	@command -v promtool >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends prometheus; }

dashboards: $(INSTALLED) ## write Grafana's dashboards and the table of metrics again
	$(BIN)/python -m dashboards.generate

chromium: ## install the browser that the tests of the web pages drive, where we may (Debian, as root)
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; }

vendor: $(INSTALLED) ## fetch the libraries of the web pages and of their tests again, and compare them with the manifests
	$(BIN)/python -m dashboards.vendoring dashboards/web/vendor tests/web/vendor

test-slow: real-inputs test-processors ## the tests that take minutes on two cores
	$(BIN)/python -m pytest -m slow

test-processors: real-inputs ## the numeric tests as older and newer processors would run them
	$(BIN)/python -m tests.processors

test-gpu: real-inputs ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: real-inputs ## packed training against PEFT and the floor, memory, and a busy neighbour; most of an hour
	$(BIN)/python -m tests.benchmarks.throughput --plot runs/bench/ratios.png
	$(BIN)/python -m tests.benchmarks.throughput --spread
	$(BIN)/python -m tests.benchmarks.memory
	$(BIN)/python -m tests.benchmarks.busy

chaos: $(INSTALLED) ## 200 kills over 100 small jobs, and what must hold of what is left; about half an hour
	$(BIN)/python -m tests.faults.chaos --kills 200 --jobs 100

crashes: $(INSTALLED) ## kill -9 of the service: at 1,000 points of its journal, and 20 times while jobs train; about half an hour
	$(BIN)/python -m tests.faults.crash_points --points 1000
	$(BIN)/python -m tests.faults.service_kills --kills 20

simulate: $(INSTALLED) ## the scheduling policies on a simulated cluster, against one job per device; a picture in runs/
	$(BIN)/python -m orchestrator.simulate --plot runs/simulate/simulate.png

wheel: $(INSTALLED) ## build a wheel into dist/
	rm -rf build
	$(BIN)/python -m pip wheel --quiet $(PIP_FLAGS) --no-deps --wheel-dir dist .

clean: ## remove build outputs and tool caches; .venv and .cache stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
