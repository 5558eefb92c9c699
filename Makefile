# One word each. `make install` is the set-up every other word stands on; it does its work once per lock file.
PYTHON ?= python3
PYTEST_ARGS ?=
LOCK_ARGS ?=
BIN := .venv/bin
PACKAGES := contracts runtime readers services/fetcher services/converter services/cataloger services/block-server client
# Speaks the archives' protocols for tests and demo; no image and no lock holds it.
EMULATORS := tests/archives
STAMP := .venv/.installed
# Readers that can't share our environment: tests/clients/*.in says what is in which.
CLIENTS := earlier napari
# What is only measured beside ours; no test wants it.
PEERS := tiled
CLIENTS_IN := .venv-clients
UV_VERSION := 0.13.8

# Real sample files lie beside the repository on some machines; tests that need them skip where they don't.
SAMPLES := $(wildcard ../shared/samples)
EMPORTER_SAMPLES ?= $(if $(SAMPLES),$(abspath $(SAMPLES)))
ifneq ($(EMPORTER_SAMPLES),)
export EMPORTER_SAMPLES
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test clients test-live chaos chaos-catalog check bench bench-fetch bench-convert bench-blocks up down containers fmt lock schemas check-format check-lint check-types check-imports check-schemas check-yaml

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything; what follows does it by itself

$(STAMP): requirements.lock $(addsuffix /pyproject.toml,$(PACKAGES) $(EMULATORS))
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Emporter needs Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv (once; two or three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ./,$(PACKAGES) $(EMULATORS))
	@touch $@

demo: install ## carry five small volumes all the way, on this machine alone
	@$(BIN)/emporter demo

test: install ## every test (PYTEST_ARGS="-k name -x" to choose)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

clients: $(CLIENTS:%=$(CLIENTS_IN)/%/.installed) ## other people's readers, in environments of their own (make test skips what is not there)

$(CLIENTS_IN)/%/.installed: tests/clients/%.lock
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

test-live: install ## ingest from the five real archives, and compare (some 10 GB; needs internet)
	$(BIN)/python -m pytest -m live tests/live $(PYTEST_ARGS)

chaos: install ## 200 converters killed over one job of 300 tasks (some ten minutes)
	EMPORTER_CHAOS_KILLS=200 EMPORTER_CHAOS_TASKS=300 $(BIN)/python -m pytest -s tests/chaos/test_converters.py $(PYTEST_ARGS)

chaos-catalog: install ## cataloger and PostgreSQL killed 200 times over 200 ingests (an hour)
	EMPORTER_CHAOS_INGESTS=200 EMPORTER_CHAOS_CATALOG_KILLS=200 EMPORTER_CHAOS_WHOLE=200 EMPORTER_CHAOS_REMOVALS=20 $(BIN)/python -m pytest tests/chaos/test_catalog.py tests/chaos/test_removals.py $(PYTEST_ARGS)

# One word, several looks; `make --keep-going check` takes all of them.
CHECKS := format lint types imports schemas yaml
check: $(addprefix check-,$(CHECKS)) ## format, lint, types, who imports whom, schemas, YAML

check-format: install
	$(BIN)/ruff format --check --quiet .

check-lint: install
	$(BIN)/ruff check .

check-types: install
	$(BIN)/mypy

check-imports: install
	$(BIN)/lint-imports

check-schemas: install
	$(BIN)/python -m emporter_contracts.export --check
	$(BIN)/python -m cataloger.api.graphql --check
	$(BIN)/python -m emporter_runtime.natsconf | diff deploy/nats/nats.conf -

check-yaml: install
	$(BIN)/yamllint --strict -c deploy/yamllint.yml docker-compose.yml deploy

fmt: install ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: install ## write contracts/schemas from the contracts
	$(BIN)/python -m emporter_contracts.export
	$(BIN)/python -m cataloger.api.graphql

bench: install ## measure, and write docs/benchmarks.md
	@if test -f tests/bench/run.py; then $(BIN)/python tests/bench/run.py; else echo "tests/bench/run.py is not there yet"; exit 2; fi

bench-blocks: install $(PEERS:%=$(CLIENTS_IN)/%/.installed) ## random crops over HTTP beside other servers and libraries, fifteen minutes; docs/benchmarks.md
	@$(BIN)/python tests/bench/run.py blocks $(BENCH_ARGS)

bench-fetch: install ## fetching beside a plain copy, small objects and a large one, three minutes; docs/benchmarks.md
	@$(BIN)/python tests/bench/run.py fetch $(BENCH_ARGS)

bench-convert: install ## conversion beside other programs, eight minutes; docs/benchmarks.md (BENCH_ARGS="--minutes 20")
	@$(BIN)/python tests/bench/run.py convert $(BENCH_ARGS)

up: install ## NATS, S3 and the four services on this machine, in ./.emporter; no Docker
	@$(BIN)/emporter up --detach

down: install ## stop them; jobs go on with the next make up
	@$(BIN)/emporter down

containers: ## the same in containers: docker compose, with MinIO and PostgreSQL
	@$(PYTHON) deploy/make_env.py
	docker compose up --build --detach --wait
	@echo "Talk to it: . ./.env.client && $(BIN)/emporter volumes"

OURS := contracts runtime readers fetcher converter cataloger block-server
SHIPPED := $(filter-out client,$(PACKAGES))
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--no-emit-package emporter $(OURS:%=--no-emit-package emporter-%)

lock: install ## the locks after a change of dependencies (LOCK_ARGS=--upgrade: newer versions)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@# Everything, for .venv; then, at the same versions, what the images hold.
	$(COMPILE) $(LOCK_ARGS) --output-file requirements.lock $(addsuffix /pyproject.toml,$(PACKAGES)) requirements-dev.in
	$(COMPILE) --constraint requirements.lock --output-file deploy/requirements.lock $(addsuffix /pyproject.toml,$(SHIPPED)) deploy/requirements.in
	$(foreach one,$(CLIENTS) $(PEERS),$(COMPILE) $(LOCK_ARGS) --output-file tests/clients/$(one).lock tests/clients/$(one).in;)
