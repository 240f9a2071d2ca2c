# Everything runs in .venv, made here from hashed locks. The two commands: make demo, make test.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests wait for blocks, devices and servers half of the time: three processes on two cores, and never more than six.
TEST_PROCESSES ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); n=$$((cores * 3 / 2)); \
	echo $$((n < 2 ? 2 : n > 6 ? 6 : n)))
# Custody rule R25: nothing under these licences is imported. The GPL names are whole, so that LGPL passes.
LICENCE_RULES := --from=mixed --fail-on="GNU Affero General Public License v3;GNU Affero General Public License v3 or later (AGPLv3+);AGPL-3.0;AGPL-3.0-only;AGPL-3.0-or-later;SSPL-1.0;Server Side Public License;GPL-2.0;GPL-2.0-only;GPL-2.0-or-later;GPL-3.0;GPL-3.0-only;GPL-3.0-or-later;GNU General Public License v2 (GPLv2);GNU General Public License v3 (GPLv3);GNU General Public License v3 or later (GPLv3+)"
LICENCE_TABLE := --from=mixed --format=markdown --order=name --ignore-packages amanat-fleet uv pip
# Packages whose metadata names no licence: a person read the LICENSE file that they carry.
LICENCES_READ := -e '/^| pytoniq-core-fork /s/UNKNOWN      /MIT (LICENSE)/'

# A machine that forbids bytecode, as many container images do, would have each of our processes compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long check check-types check-rules contracts contracts-check third-party format bench up down fleet lock clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

$(VENV)/.installed: requirements.bootstrap.lock requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.bootstrap.lock
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock \
		|| { echo "uv could not; pip can, in a minute or two"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/.installed ## Make .venv with everything in it

demo: install ## Take real payments through the whole fleet (ARGS='--payments 50')
	@$(BIN)/fleet demo $(ARGS)

test: install ## All tests in several processes (ARGS='-k ledger', ARGS='-n 0' for one process)
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: install ## Fuzz, races and kills at their declared counts; writes benchmarks/counts.json
	@FLEET_TEST_COUNTS=full $(BIN)/python -m pytest --timeout 7200 $(ARGS)

check: install ## Lint, format, strict types, import directions, exact money, licences
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(MAKE) --no-print-directory --jobs=2 check-types check-rules

# Types take longer than all the rest, on one core.
check-types: install
	@$(BIN)/basedpyright --warnings

check-rules: install
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/unit/test_exact_money.py
	@$(BIN)/pip-licenses $(LICENCE_RULES) >/dev/null
	@$(BIN)/pip-licenses $(LICENCE_TABLE) | sed $(LICENCES_READ) | diff -u THIRD_PARTY.md - || { echo "THIRD_PARTY.md is out of date: run make third-party"; exit 1; }
	@! grep UNKNOWN THIRD_PARTY.md || { echo "read the LICENSE file of the packages above, and say so in LICENCES_READ of the Makefile"; exit 1; }

contracts: install ## Build contracts/ with the pinned solc; writes contracts/built
	@$(BIN)/python -m workers.embedded.solidity

contracts-check: install ## Build them again and compare with contracts/built, byte for byte
	@$(BIN)/python -m workers.embedded.solidity --check

third-party: install ## Renew THIRD_PARTY.md from what is installed
	@$(BIN)/pip-licenses $(LICENCE_TABLE) | sed $(LICENCES_READ) > THIRD_PARTY.md

format: install ## Format the code
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: install ## Measure against named peers (ONLY=name); writes benchmarks/latest.json
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(ARGS)

up: install ## Start the services and every process of the fleet
	@$(BIN)/fleet up $(ARGS)

down: install ## Stop them; data stays
	@$(BIN)/fleet down $(ARGS)

fleet: install ## Any fleet command (ARGS='explain PAYMENT')
	@$(BIN)/fleet $(ARGS)

lock: install ## Renew the locks from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --all-extras --generate-hashes --no-annotate --no-header -p 3.11 pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header -p 3.11 pyproject.toml -o requirements.production.lock
	@$(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-header -p 3.11 requirements.bootstrap.in -o requirements.bootstrap.lock

clean: ## Remove the environment and the state folder (stops the fleet first)
	@test ! -x $(BIN)/fleet || $(BIN)/fleet down || true
	rm -rf $(VENV) .fleet
