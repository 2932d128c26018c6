# Everything needs Python 3.11 or later and nothing else; `make test-kafka` and `make chaos` need Java 17 and Maven too.

VENV := .venv
BIN := $(VENV)/bin
PINNED := $(VENV)/.pinned
STAMP := $(VENV)/.installed
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --quiet

# These run whole services, one test at a time. All others are shared by two processes.
SERVICES := tests/e2e

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kafka test-deploy lint bench lab-tables chaos soak generate lock clean

help:           ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## install everything, pinned, into .venv

demo: $(STAMP)  ## watch a model thief being found and stopped
	$(BIN)/weirguard demo

test: lint      ## check the code, then run the tests on the embedded broker
	$(BIN)/weirguard warm
	$(BIN)/pytest -q --numprocesses 2 --dist loadfile $(SERVICES:%=--ignore=%) tests
	$(BIN)/pytest -q --numprocesses 2 --dist loadfile $(SERVICES)

test-kafka: $(STAMP) ## run the end-to-end tests on a real Apache Kafka
	$(BIN)/weirguard warm
	$(BIN)/pytest -q --numprocesses 2 --dist loadfile --broker apache tests/e2e tests/apache_kafka

test-deploy: $(STAMP) ## check deploy/ with promtool and docker compose
	$(BIN)/python -m deploy.check

lint: $(STAMP)  ## ruff, mypy, import contracts, dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

bench: $(STAMP) ## run the benchmarks
	$(BIN)/python -m benchmarks

lab-tables: $(STAMP) ## measure the attacks and defences of the lab anew: the tables of docs/lab.md
	$(BIN)/python -m benchmarks.lab

chaos: $(STAMP) ## kill, freeze and restart workers and Kafka under load, and compare with an undisturbed run
	$(BIN)/python -m tests.chaos

soak: $(STAMP)  ## steady load for twenty minutes on Apache Kafka; memory and the state log must not grow
	$(BIN)/python -m tests.chaos.soak

generate: $(STAMP) ## write what is made from the metric definitions: docs/metrics.md, the dashboard
	$(BIN)/python -m deploy.generate

lock:           ## pin all dependencies anew (needs uv)
	$(COMPILE) --extra dev --upgrade --output-file requirements.lock
	$(COMPILE) --extra service --constraints requirements.lock --output-file deploy/service.lock
	$(COMPILE) --extra lab --constraints requirements.lock --output-file deploy/lab.lock

clean:          ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build out

$(STAMP): $(PINNED) pyproject.toml
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(PINNED): requirements.lock
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then echo "weirguard needs Python 3.11 or later (set PYTHON=...)" >&2; exit 1; fi; \
	$$python -m venv --clear $(VENV)
	$(PIP) --require-hashes --requirement requirements.lock
	@touch $@
