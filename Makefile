# `make` lists the targets. Everything runs from .venv, which `make venv` builds from the hashed lock file.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements.lock
PACKAGES := roost roost_operator roost_gateway roost_worker roost_cluster roost_pool
SOURCES := proto operator gateway worker tests charts images
# protoc finds its plugins by PATH.
GENERATE := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py
CLUSTER := PYTHONPATH=tests/cluster $(BIN)/python -m roost_cluster
SAMPLE ?= manifests/samples/pool-local.yaml
# Twice as many processes as cores: half of a test's time is waiting. Whole files go to a process, the long ones first.
PROCESSES ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))
IN_PARALLEL := --numprocesses=$(PROCESSES) --dist=loadgroup --no-loadscope-reorder

.PHONY: help venv up demo test test-only check binaries smoke e2e clients bench tools generate lock format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## Make .venv from requirements.lock

# uv is fast; plain pip with the same hashes is the way without it. Each of Ray's processes would compile what it imports,
# so the lock file's packages are compiled once, as pip does unasked.
$(READY): $(LOCK) pyproject.toml
	@echo "Making $(VENV) from the lock file: some minutes and 6 GB the first time"
	@$(PYTHON) -c 'import sys; sys.exit("Roost needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else 0'
	@if $(PYTHON) -m uv --version >/dev/null 2>&1; then uv="$(PYTHON) -m uv"; \
	elif uv --version >/dev/null 2>&1; then uv=uv; \
	elif $(PYTHON) -m pip install --quiet uv >/dev/null 2>&1; then uv="$(PYTHON) -m uv"; \
	else uv=; fi; \
	if [ -n "$$uv" ]; then \
		test -x $(BIN)/python || $$uv venv --quiet --python $(PYTHON) $(VENV); \
		$$uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r $(LOCK); \
		$$uv pip install --quiet --python $(BIN)/python --no-deps -e .; \
	else \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(LOCK); \
		$(BIN)/python -m pip install --quiet --no-deps -e .; \
	fi
	@touch $@

up: venv ## Run a pool on this machine (SAMPLE=file.yaml)
	$(BIN)/roost up -f $(SAMPLE)

demo: venv ## Agents on a real model while workers, gateways and Redis are killed, then a spike
	@$(BIN)/roost demo

test: check test-only ## Everything: `check`, then unit and integration tests (PYTEST=arguments)

test-only: venv
	$(BIN)/python -m pytest -q $(IN_PARALLEL) $(PYTEST)

check: venv ## Lint, format, types, import contracts, generated code, Dockerfiles
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(PACKAGES:%=-p %)
	$(BIN)/lint-imports --no-cache --no-logo
	$(GENERATE) --check
	$(BIN)/python -m roost_operator.api.crd --check
	$(BIN)/python charts/generate.py --check --no-helm
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/hadolint images/*.Dockerfile

smoke: venv ## The most of e2e that every change must pass: served, rebuilt, killed, upgraded, removed
	$(BIN)/python -m pytest -q -p no:randomly -m smoke $(PYTEST) tests/cluster

e2e: venv ## The product on a real Kubernetes: that of KUBECONFIG, else one node brought up here (Linux, root)
	@tree=$$($(CLUSTER) tree) && $(BIN)/python -m pytest -q -p no:randomly -m e2e $(PYTEST) tests/cluster && \
	$(if $(filter-out --durations=%,$(PYTEST)),echo "PASSED is left as it is: PYTEST may leave tests out",$(CLUSTER) passed --tree $$tree)

binaries: venv ## Build the Kubernetes that e2e runs: API server, kubelet, KubeRay and others, kept in ~/.cache/roost
	$(CLUSTER) build

clients: venv ## Run other people's SDKs, frameworks and coding agents against Roost (PyPI, npm, uv)
	$(BIN)/python -m pytest -q -p no:randomly -m clients $(PYTEST) tests/clients

bench: venv ## Benchmarks; the last line of each is JSON (see tests/benchmarks)
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file; done

tools: venv ## Open sessions with the tools of real MCP servers, and write the table of docs/tools.md (npm, uv, network)
	$(BIN)/python tests/tools/mcp_servers.py

generate: venv ## Regenerate code
	$(GENERATE)
	$(BIN)/python -m roost_operator.api.crd
	$(BIN)/python charts/generate.py
	$(BIN)/python -m roost_gateway.front.http.parameter_docs

lock: ## Regenerate requirements.lock
	$(PYTHON) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--extra local --group dev --output-file requirements.lock pyproject.toml
	$(PYTHON) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --output-file tests/clients/python.lock tests/clients/python.in

format: venv ## Format and fix what can be fixed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
