# `make` lists the targets. Everything runs in .venv, which is recreated only when the requirements change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := pip install --quiet --disable-pip-version-check
# Of tests, on two cores: those on a Kubernetes mostly wait.
PROCESSES ?= $(if $(KUBECONFIG),3,2)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## make .venv and install everything into it

$(VENV)/.installed: requirements.txt tests/requirements.txt tests/store.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Heliostat needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -r requirements.txt -r tests/requirements.txt
	$(BIN)/$(PIP_INSTALL) --no-deps --editable .
	$(PYTHON) -m venv $(VENV)/store
	$(VENV)/store/bin/$(PIP_INSTALL) -r tests/store.txt
	@touch $@

train: setup  ## train the digits example
	$(BIN)/heliostat train workloads/configs/digits.yaml

docs: setup $(VENV)/docs/.installed  ## the JSON schemas and docs/reference from the types and the parsers; the site, in site/
	$(BIN)/python -m heliostat.reference
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict  # the variable: no notice about a successor; with --quiet nothing would be strict

release: setup $(VENV)/release/.installed  ## build the wheel and the source archive of what is committed into dist/, and check them
	$(BIN)/python -m tests.release $(VENV)/release/bin/python

IMAGE ?= heliostat/ray:2.60.0$(if $(filter cpu,$(TORCH)),-cpu)
BUILDER ?= docker
image: $(VENV)/image/.installed  ## check and build the image of the profiles (IMAGE=name:tag; TORCH=cpu: without CUDA; BUILDER=podman)
	$(VENV)/image/bin/hadolint cluster/image/Dockerfile
	@command -v $(BUILDER) > /dev/null || { echo "the Dockerfile is checked, but not built: there is no $(BUILDER)"; exit 1; }
	$(BUILDER) build -f cluster/image/Dockerfile $(if $(TORCH),--build-arg TORCH=$(TORCH)) -t $(IMAGE) .

# Environments of their own, for tools that nothing of ours imports.
$(VENV)/docs/.installed: docs/site/requirements.txt
$(VENV)/release/.installed: tests/release.txt
$(VENV)/image/.installed: tests/image.txt
$(VENV)/docs/.installed $(VENV)/release/.installed $(VENV)/image/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/$(PIP_INSTALL) -r $<
	@touch $@

check: setup  ## format, lint, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## every check and every test
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup --no-loadscope-reorder

accept: setup  ## tests with real third-party libraries and servers, and the longest on a Kubernetes, which make test leaves out
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
	SERVE_REQUESTS=10000 $(BIN)/python -m pytest -s tests/workloads/finished/test_serve_process.py
	EXPORT_EXAMPLES=3000 $(BIN)/python -m pytest tests/workloads/finished/test_export_rows.py

clean:  ## remove .venv and the caches; runs stay
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

.PHONY: help setup train docs release image check test accept bench bench-sweep bench-kube soak clean
