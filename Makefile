# `make` prints the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_INSTALLED := $(BENCH_VENV)/.installed
ARGS ?=
API := $(patsubst nivesh_lib/%/__init__.py,nivesh_lib.%,$(wildcard nivesh_lib/*/__init__.py))
# The notebooks that `make test` checks; with NOTEBOOKS= it checks all.
NOTEBOOKS ?= --quick
# What `nivesh release --check` takes for the tests of a commit: there only after all of them passed.
TESTED := reports/tests.xml
CODE := nivesh_lib tests requirements.lock pyproject.toml
COMMIT = $$(git rev-parse HEAD)$$(test -z "$$(git status --porcelain -- $(CODE))" || echo -dirty)

export DO_NOT_TRACK = 1
export MLFLOW_DISABLE_TELEMETRY = true
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_OFFLINE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install run test test-all nbval notebooks showcase serve-lock docs lab ui bench bench-peers bench-engines bench-serve load soak fuzz torture lint clean

help: ## print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else \
	  "Python 3.11 or 3.12 is needed, this is %d.%d. Set one: make PYTHON=/path/to/python3.11" % v)'
	@echo "Installing into $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/jupyter labextension disable @jupyterlab/apputils-extension:announcements >/dev/null 2>&1 || true
	@touch $@

install: $(INSTALLED) ## make .venv from requirements.lock, when missing or stale

run: $(INSTALLED) ## run the pipeline and write the report (ARGS="--dataset NAME@VERSION")
	@$(BIN)/nivesh run $(ARGS)

test: $(INSTALLED) ## ruff, mypy, pytest, and nbval of the quick notebooks
	@rm -f $(TESTED)
	@$(MAKE) --no-print-directory -j2 lint nbval ONLY=$(NOTEBOOKS)
	@echo "pytest $(if $(SLOW),with the slow tests,without the slow tests; make test-all runs them too)"
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(SLOW) \
	  --junitxml=$(TESTED).partial -o junit_suite_name="$(COMMIT)"
	@mv $(TESTED).partial $(TESTED)

test-all: ## the same with the slow tests and nbval of all notebooks
	@$(MAKE) --no-print-directory test NOTEBOOKS= SLOW='-m ""'

lint: $(INSTALLED)
	@echo "ruff, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

nbval: $(INSTALLED) ## execute the committed notebooks and compare their checked outputs
	@echo "nbval $(or $(patsubst --%,of the % notebooks,$(ONLY)),of all notebooks)"
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	  NIVESH_MODE=nbval NIVESH_RUN_DIR=$$dir MLFLOW_TRACKING_URI=sqlite:///$$dir/mlflow.db NIVESH_THREADS=2 \
	  OMP_NUM_THREADS=2 $(BIN)/python -m pytest -p no:xdist -p no:cacheprovider -W default --nbval-lax \
	  --nbval-current-env --nbval-cell-timeout=1200 $$($(BIN)/python -m nivesh_lib.pipeline.refresh --list $(ONLY))

notebooks: $(INSTALLED) ## run the pipeline and keep its executed notebooks, where one changed
	@$(BIN)/python -m nivesh_lib.pipeline.refresh

showcase: $(INSTALLED) ## copy the last run to notebooks/, reports/example and the README
	@$(BIN)/python -m nivesh_lib.pipeline.showcase

serve-lock: $(INSTALLED) ## write requirements-serve.lock, what of the lock a server needs
	@$(BIN)/python -m tests.serve_lock

docs: $(INSTALLED) ## write the API reference from docstrings to docs/api
	@$(BIN)/pdoc --docformat numpy --output-directory docs/api $(API)

lab: $(INSTALLED) ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --ServerApp.root_dir=. notebooks/01_data_validation.ipynb $(ARGS)

ui: $(INSTALLED) ## open MLflow's UI on http://127.0.0.1:5000
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/python -m nivesh_lib.tracking.ui $(ARGS)

bench: $(INSTALLED) ## measure the speed figures of the README
	@$(BIN)/python tests/benchmarks/speed.py

torture: $(INSTALLED) ## kill, fill and mislead it for an hour, and count (ARGS="--short" for a trial)
	@$(BIN)/python -m tests.torture $(ARGS)

$(BENCH_INSTALLED): requirements.lock pyproject.toml
	@echo "Installing into $(BENCH_VENV) (a few minutes, once)"
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet -r requirements.lock
	@grep -vE '^(certifi|opentelemetry-[a-z-]+)==' requirements.lock >$(BENCH_VENV)/constraints.txt # BentoML moves them
	@$(BENCH_VENV)/bin/python -m pip install --quiet --no-build-isolation -c $(BENCH_VENV)/constraints.txt -e '.[bench]'
	@touch $@

bench-peers: $(BENCH_INSTALLED) ## quality and training time beside peers (ARGS="--help")
	@$(BENCH_VENV)/bin/python -m tests.benchmarks.peers $(ARGS)

bench-engines: $(BENCH_INSTALLED) ## speed and size beside other engines (ARGS="--short" for a trial)
	@$(BENCH_VENV)/bin/python -m tests.benchmarks.engines $(ARGS)

bench-serve: $(BENCH_INSTALLED) ## the HTTP server beside other servers (ARGS="--short" for a trial)
	@$(BENCH_VENV)/bin/python -m tests.benchmarks.serving $(ARGS)

load: $(BENCH_INSTALLED) ## the load test: 100 predictions a second, for a minute
	@$(BENCH_VENV)/bin/python -m tests.load $(ARGS)

soak: $(INSTALLED) ## mixed traffic for ten minutes: memory, answers (ARGS="--seconds 60" for less)
	@$(BIN)/python -m tests.load.soak $(ARGS)

fuzz: $(INSTALLED) ## 20,000 made-up requests by the server's OpenAPI (ARGS="--cases 200" for fewer)
	@$(BIN)/python -m tests.load.fuzz $(ARGS)

clean: ## remove virtual environments and caches; data, reports and mlruns stay
	@rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
