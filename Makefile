# The habits of this project. `make` alone prints them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# A recipe fails when any part of a pipe does.
.SHELLFLAGS := -eu -o pipefail -c
RUN := uv run --frozen --all-extras --quiet
PYTEST := $(RUN) pytest -q

# What follows `bench` on the command line names benches, and is nothing to make.
NAMED := $(if $(filter bench,$(firstword $(MAKECMDGOALS))),$(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS)))
ifneq ($(NAMED),)
.PHONY: $(NAMED)
$(NAMED): bench ; @:
endif

.PHONY: help setup demo test test-kind lint fmt unit sim disorder soak integration e2e cluster images bench docs clean

help: ## Print this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20

setup: # uv, and with it everything else that Python brings
	@command -v uv >/dev/null || { echo "Installing uv from PyPI ..."; python3 -m pip install --quiet --break-system-packages uv 2>/dev/null || python3 -m pip install --quiet uv || { echo "uv is missing and pip cannot install it: install uv, then run this again" >&2; exit 1; }; }
	@uv sync --frozen --all-extras --quiet

demo: setup ## A cluster, a good release and a bad one, while you watch
	@$(RUN) python -m dev.demo

test: setup lint unit sim integration e2e ## Everything that CI runs

lint: setup ## Format, lint, types, layers
	@$(RUN) ruff format --check --quiet . && $(RUN) ruff check --quiet .
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) python -m docs.generate --check

fmt: setup ## Format the code and mend what the linter can mend
	@$(RUN) ruff check --fix --quiet . || true; $(RUN) ruff format --quiet .

unit: setup ## The pure core, and what is said in two places
	@$(PYTEST) tests/unit tests/contract

sim: setup ## The operator in a simulated cluster, on virtual time
	@$(PYTEST) -n auto tests/simulation

disorder: setup ## The simulation with fresh seeds, for MINUTES (10 unless given)
	@DSPY_DISORDER_MINUTES=$${MINUTES:-10} $(PYTEST) tests/simulation/test_disorder.py

soak: setup ## Releases on a pretended cluster while everything is killed, for MINUTES (30 unless given)
	@$(RUN) python -m tests.soak $${MINUTES:-30}

integration: setup ## Parts against a real Envoy, a real MLflow artifact, a real API server
	@$(PYTEST) -n 2 --dist loadfile tests/integration

test-kind: setup ## The main stories on kind; without Docker, on a Docker made of Debian's packages
	@$(RUN) python -m dev.cluster.bare_debian $(PYTEST) tests/e2e -k "demo or good_version or bad_version or default_deny"

e2e: images ## The whole thing on a cluster that is made and removed (test-kind plays the demo)
	@$(PYTEST) tests/e2e --ignore tests/e2e/test_demo.py

cluster: setup ## Create the cluster of the demo with the operator on it, and leave it
	@$(RUN) python -m dev.cluster create

images: setup ## Build the images, and the binary of the native node
	@$(RUN) python -m dev.cluster prepare

bench: setup ## Print every figure beside its peer or limit, or those that are named: make bench scale
	@$(RUN) python -m benchmarks $(NAMED)

docs: setup ## Generate the reference of the resources from their schemas
	@$(RUN) python -m docs.generate

clean: setup ## Remove the clusters that the demo and the tests made
	@$(RUN) python -m dev.cluster delete && $(RUN) python -m dev.cluster --name dspy-test delete
