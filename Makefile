# `make` alone says what there is. Every target makes .venv by itself, at its first use and whenever
# the locked dependencies change. ARGS is passed on: make test ARGS="-k lease -x"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
READY := $(VENV)/.ready
BASELINE := protos/baseline/mge_cache.binpb
# The image's parts of requirements.lock, in the same versions.
IMAGE_LOCK = --quiet --constraint requirements.lock --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"
DATA_DIR ?= $(CURDIR)/.mge-cache-data

.DEFAULT_GOAL := help
.PHONY: help run test demo validate bench check lint format types proto proto-check settings baseline lock clean helm helm-test helm-files helm-docs dashboard pod-test

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# It listens on a unix socket in the data folder too, if that path can be one's (about 100 bytes).
run: $(READY) ## Start the sidecar on an embedded Valkey (data in .mge-cache-data; Ctrl-C stops it)
	@data="$${MGE_CACHE_DATA_DIR:-$(DATA_DIR)}"; socket="$$data/mge.sock"; \
	case "$$data" in /*) ;; *) socket=;; esac; \
	if [ "$$(printf %s "$$socket" | wc -c)" -gt 100 ]; then socket=; fi; \
	if [ -n "$$socket" ]; then mkdir -p -m 700 "$$data"; fi; \
	MGE_CACHE_DATA_DIR="$$data" MGE_CACHE_UNIX_SOCKET="$${MGE_CACHE_UNIX_SOCKET-$$socket}" \
		exec $(BIN)/mge-cache serve $(ARGS)

test: $(READY) ## Run all tests
	@$(PY) -m pytest -n auto --dist worksteal $(ARGS)

demo: $(READY) ## Show on real texts what the cache saves (no key, no network needed)
	@exec $(PY) -m tests.demo $(ARGS)

validate: $(READY) ## Does the cache reach its goals on a masterplan's run? (minutes; no key, no network)
	@exec $(PY) -m tests.validate $(ARGS)

bench: $(READY) ## Measure speed and memory against bare gRPC and Redis
	@exec $(PY) -m tests.bench $(ARGS)

check: lint types proto-check ## Every check but the tests

lint: $(READY) ## Check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(READY) ## Mend style and format as far as a machine can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/buf format --write protos

types: $(READY) ## Check types (mypy --strict)
	@$(BIN)/mypy

proto: $(READY) ## Generate client/mge_cache/v1 from the contract
	@$(PY) -m tools.protos client

settings: $(READY) ## Write the table of settings into README.md and docs/settings.md
	@$(PY) -m tools.settings_pages

helm: $(READY) ## Fetch real helm and kubectl into .helm, for the tests of the charts
	@PYTHON="$(PYTHON)" $(PY) -m tools.fetch_helm

helm-test: helm ## Test the charts with real helm and kubectl: schemas, versions, upgrades, bad values
	@$(PY) -m pytest -n auto --dist worksteal tests/helm $(ARGS)

helm-files: $(READY) ## Write the sidecar's settings into the charts
	@$(PY) -m tools.chart_files

helm-docs: $(READY) ## Write the charts' values into their READMEs
	@$(PY) -m tools.chart_readmes

proto-check: $(READY) ## Lint the contract; look for breaking changes and for stale generated code
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/buf breaking --against $(BASELINE)
	@$(PY) -m tools.protos --check client

# With each release: what is in the baseline can only be added to. To break it on purpose, delete it.
baseline: $(READY) ## Make today's contract the one that must not be broken
	@if [ -e $(BASELINE) ]; then $(BIN)/buf breaking --against $(BASELINE); fi
	@mkdir -p $(dir $(BASELINE))
	@$(BIN)/buf build --exclude-source-info --output $(BASELINE)

dashboard: $(READY) ## Write the Grafana dashboard into the Helm chart
	@$(PY) -m tools.dashboard

# What it makes lies in a temporary folder, and goes with it. ARGS is pytest's.
pod-test: helm ## Build the image and run a pod of it with podman (Debian, as root; else it says why not)
	@PY="$(PY)" tools/pod_test $(ARGS)

lock: $(READY) ## Resolve the dependencies anew into requirements*.lock (the latest that pyproject.toml allows)
	@$(PYTHON) -m pip --python $(PY) install --quiet uv
	@$(BIN)/uv pip compile --quiet --upgrade --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml
	@$(BIN)/uv pip compile $(IMAGE_LOCK) --extra server \
		--output-file requirements-server.lock pyproject.toml
	@$(BIN)/uv pip compile $(IMAGE_LOCK) --extra embedded \
		--output-file requirements-embedded.lock pyproject.toml
	@echo "hatchling>=1.27" | $(BIN)/uv pip compile $(IMAGE_LOCK) \
		--output-file requirements-build.lock -

clean: ## Remove what make made, but not the data of `make run`
	@rm -rf $(VENV) .helm helm/mge-cache/charts helm/mge-cache/Chart.lock dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find client server tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml tools/setup_venv
	@PYTHON="$(PYTHON)" tools/setup_venv $(VENV)
	@touch $@
