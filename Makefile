# `make` lists the targets. Everything runs in .venv, which is recreated only when the requirements change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of tests, on two cores: those on a Kubernetes mostly wait.
PROCESSES ?= $(if $(KUBECONFIG),3,2)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## make .venv and install everything into it

$(VENV)/.installed: requirements.txt tests/requirements.txt tests/store.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Heliostat needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(PYTHON) -m venv $(VENV)/store
	$(VENV)/store/bin/pip install --quiet --disable-pip-version-check -r tests/store.txt
	@touch $@

train: setup  ## train the digits example
	$(BIN)/heliostat train workloads/configs/digits.yaml

docs: setup  ## write the JSON schemas and docs/reference from the types of the configs and the parsers of the commands
	$(BIN)/python -m heliostat.reference

check: setup  ## format, lint, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## every check and every test
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup --no-loadscope-reorder

accept: setup  ## tests with real third-party libraries and servers, which make test leaves out
	$(BIN)/python -m pytest -m accept

bench: setup  ## compare with plain torchrun, side by side
	$(BIN)/python -m tests.benchmarks.start
	$(BIN)/python -m tests.benchmarks.torchrun
	$(BIN)/python -m tests.benchmarks.recovery

bench-sweep: setup  ## compare sweeps with Ray Tune and Optuna, and the search with random search
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.sweep_quality tuning/configs/digits.yaml
	$(BIN)/python -m tests.benchmarks.sweep_quality tuning/configs/breast-cancer.yaml

bench-kube: setup  ## compare with kubectl, on the cluster of KUBECONFIG
	$(BIN)/python -m tests.benchmarks.kubernetes tests/benchmarks/kube.yaml

soak: setup  ## a run and a sweep, broken at random moments (SOAK_FAULTS, SOAK_SEED), damaged datasets and tables (FUZZ_SEED), odd rows, requests that are none
	SOAK_FAULTS=$${SOAK_FAULTS:-20} $(BIN)/python -m pytest -s -m soak tests/faults/test_soak.py
	SOAK_FAULTS=$${SOAK_FAULTS:-20} $(BIN)/python -m pytest -s -m soak tests/kubernetes/test_survival.py
	SOAK_KILLS=10 $(BIN)/python -m pytest -s tests/tuning/test_continue.py -k kill_9
	FUZZ_INPUTS=10000 $(BIN)/python -m pytest tests/datasets/test_foreign.py -k another_file
	FUZZ_FILES=1000 $(BIN)/python -m pytest tests/datasets/test_broken_files.py tests/datasets/test_meanings.py
	SERVE_REQUESTS=10000 $(BIN)/python -m pytest -s tests/workloads/test_serve_process.py
	EXPORT_EXAMPLES=3000 $(BIN)/python -m pytest tests/workloads/test_export_rows.py

clean:  ## remove .venv and the caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

.PHONY: help setup train docs check test accept bench bench-sweep bench-kube soak clean
