# `make` alone prints the targets below. Each prepares what it needs, once.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
# The interpreter itself, not a shim that may not know the version. Override: make PYTHON=...
PYTHON ?= $(firstword $(foreach v,3.11 3.12,$(shell \
	python$(v) -c 'import sys; print(sys.executable)' 2>/dev/null)))
KERNELS := $(shell find operators/kernels -name '*.py' 2>/dev/null)
DEMO_PACKAGES := mlfinpy==0.1.2 gym-anytrading==2.0.0 bokeh-sampledata==2026.1 obspy==1.5.1
UV ?= uv
ARGS ?=
KILLS ?= 200

.PHONY: parity help setup demo test test-chaos lint fmt bench lock services services-stop clean

help: ## Print this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo '  ARGS="..." is passed on by demo, test, bench and services; PYTHON=... names the interpreter.'

setup: $(VENV)/.kernels ## Make .venv from the locks and compile the kernels (about a minute, once)
	@:

demo: setup ## Run real data end to end and write the report
	@$(BIN)/riffle demo $(ARGS)

test: setup ## Run every test and doctest, e.g. ARGS="-k parity"
	@$(BIN)/python -m pytest -q -n auto $(ARGS)

test-chaos: setup ## Kill the live flow 200 times on a real Kafka, and prove that nothing shows
	@RIFFLE_CHAOS_KILLS=$(KILLS) $(BIN)/python -m pytest -q -n 0 tests/chaos $(ARGS)

lint: setup ## Check style, format and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary

fmt: setup ## Format, and repair what ruff can repair
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

parity: setup ## Read the same rows in many ways, and compare the bits
	@$(BIN)/python -m tests.prove_parity $(ARGS)

bench: setup ## Measure against peers, side by side, outputs checked first
	@$(BIN)/python -m benchmarks.run $(ARGS)

# The pins in the lock are kept where they fit; delete a pin to move it. One version a package on
# both Pythons (`fewest`), since the bits of a feature are promised per lock.
lock: ## Write the lock files again (needs uv)
	@$(UV) pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --extra dev \
		--generate-hashes --no-emit-index-url --custom-compile-command 'make lock' \
		pyproject.toml -o requirements.lock
	@echo 'setuptools>=77' | $(UV) pip compile --quiet --universal --fork-strategy fewest \
		--python-version 3.11 --constraints requirements.lock --generate-hashes --no-emit-index-url \
		--no-annotate --custom-compile-command 'make lock' pyproject.toml - \
		-o deploy/requirements.lock
	@printf '%s\n' $(DEMO_PACKAGES) | $(UV) pip compile --quiet --universal --no-deps \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command 'make lock' - -o demo-requirements.lock

# Names of services are arguments: make services ARGS="kafka redis".
services: setup ## Start Kafka, PostgreSQL, TimescaleDB and Redis, and let them run
	@$(BIN)/python -m tests.services start $(ARGS)

services-stop: ## End the services
	@[ ! -d .services ] || $(or $(wildcard $(BIN)/python),$(PYTHON)) -m tests.services stop

clean: services-stop ## Remove .venv, caches, services and what the demo wrote
	@rm -rf $(VENV) .services build dist *.egg-info out .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or 3.12 must be on PATH; or say make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

# The data packages of the demo are read as files and never imported, so their pins do not count.
$(VENV)/.installed: requirements.lock demo-requirements.lock pyproject.toml | $(BIN)/python
	@echo 'Installing the locked packages into $(VENV) ...'
	@$(PIP) install --no-deps --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --require-hashes -r demo-requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The cache is named after the sources of the kernels; those of older sources go.
$(VENV)/.kernels: $(VENV)/.installed $(KERNELS)
	@echo 'Compiling the kernels ...'
	@rm -rf $(VENV)/numba-cache
	@$(BIN)/python -m operators.warm
	@touch $@
