# `make run` and `make test` set up everything they need. `make help` lists the other commands.

# The newest Python that is known to work, and that can make virtual environments.
PYTHON ?= $(shell for python in python3.13 python3.14 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
# A relative path, since the path of the checkout may have spaces.
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/development.ini
ifndef BIND
BIND := $(or $(GALAXY_EXPRESS_BIND),127.0.0.1:9090)
endif

export GALAXY_EXPRESS_BIND := $(BIND)
export GALAXY_EXPRESS_DATABASE_URL ?= sqlite:///galaxy_express.db
# Baseplate and Pyramid import pkg_resources, and setuptools is pinned for them.
export PYTHONWARNINGS := ignore:pkg_resources is deprecated:UserWarning

# Which tests to run, and with what options of pytest: make test T=tests/unit OPTIONS=-x
T ?=
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help run serve test test-unit coverage lint format bench bench-growth bench-profile demo torture shell migratedb dropdb resetdb backupdb auditdb forgetrecipient requirements wheel clean install install-dev check-port

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: install check-port migratedb ## Serve on port 9090 for development, and restart when code changes.
	@exec $(BIN)/python -m galaxy_express.serving.reloader $(CONFIG)

serve: CONFIG = configs/production.ini
serve: install check-port migratedb ## Serve on port 9090 as in production: gunicorn, several workers.
	@exec $(BIN)/python -m gunicorn --config configs/gunicorn.conf.py

check-port: install
	@$(BIN)/python -m galaxy_express.serving.bind '$(BIND)'

# PostgreSQL, a browser and strace are used where they are installed. In CI nothing is skipped.
# Much of a test's time is waiting, so there are more processes than most machines have cores.
PYTEST = pytest --numprocesses=4 $(OPTIONS) $(T)

test: install-dev ## Run the tests (T=tests/functional/test_batch.py OPTIONS=-x).
	$(if $(CI),@$(MAKE) --no-print-directory coverage,$(BIN)/python -m $(PYTEST))

coverage: install-dev ## Run the tests, and measure which lines they reach.
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m $(PYTEST)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report $(if $(T)$(OPTIONS),,--fail-under=99)

test-unit: install-dev ## Run the tests that need no database, in seconds.
	$(BIN)/python -m pytest tests/unit $(OPTIONS)

lint: install-dev ## Check style, types and imports.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python $(BIN)/lint-imports

format: install-dev ## Format the code as lint wants it.
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: install-dev ## Measure the speed (OPTIONS=--help).
	$(BIN)/python -m benchmarks $(OPTIONS)

bench-growth: install-dev ## Measure the effect of ten million packages (OPTIONS=--help).
	$(BIN)/python -m benchmarks.growth $(OPTIONS)

bench-profile: install-dev ## Measure what each part of a send costs (OPTIONS=--help).
	$(BIN)/python -m benchmarks.profile $(OPTIONS)

demo: install ## Fill a running service with a few thousand packages (OPTIONS=--help).
	$(BIN)/python -m galaxy_express.ops.demo http://$(BIND) $(OPTIONS)

torture: install-dev ## Attack the service for half an hour: kills, faults, floods (OPTIONS=--help).
	$(BIN)/python -m pytest tests/torture --torture --timeout=0 --override-ini=faulthandler_timeout=0 $(OPTIONS)

shell: install ## Open a Python shell with the models and a database connection.
	$(BIN)/python $(BIN)/baseplate-shell $(CONFIG)

migratedb: install ## Create the tables that are missing.
	@$(BIN)/python $(BIN)/baseplate-script $(CONFIG) galaxy_express.models:create_schema

dropdb: install ## Drop the tables, and everything in them (FORCE=1 without asking).
	$(BIN)/python $(BIN)/baseplate-script $(CONFIG) galaxy_express.models:drop_schema

resetdb: dropdb migratedb ## Start again with empty tables.

backupdb: install ## Copy the SQLite database while the service runs (TO=backup.db).
	@$(BIN)/python $(BIN)/baseplate-script $(CONFIG) galaxy_express.ops.backup:back_up '$(TO)'

auditdb: install ## Recount the totals, compare them with the counters, and look for damage.
	@$(BIN)/python $(BIN)/baseplate-script $(CONFIG) galaxy_express.ops.audit:audit_database

forgetrecipient: install ## Delete the preferences of one recipient (RECIPIENT=leela).
	$(BIN)/python $(BIN)/baseplate-script $(CONFIG) galaxy_express.ops.forget:forget_recipient

# posix-ipc has no wheels for the newest Pythons. Baseplate requires it, but imports it only in
# parts that are not used here, so nothing needs a compiler. UPGRADE= keeps the present versions.
UPGRADE ?= --upgrade
COMPILE = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 $(UPGRADE) \
	--no-annotate --no-header --generate-hashes --no-emit-package posix-ipc

requirements: install-dev ## Pin the newest versions of the requirements.
	$(COMPILE) setup.py --output-file requirements.txt
	$(COMPILE) --constraint requirements.txt requirements-dev.in --output-file requirements-dev.txt

wheel: install-dev ## Build a wheel into dist/.
	$(BIN)/python -m uv build --quiet --wheel --no-build-isolation --python $(BIN)/python

clean: ## Remove the virtual environment and everything that was built.
	rm -rf $(VENV) build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

install: $(BIN)/python
	@$(call install,requirements.txt)

install-dev: install
	@$(call install,requirements-dev.txt)

# Installs what a file names, unless the environment has it already. The file is complete, and
# --no-deps keeps pip from asking for posix-ipc.
define install
cmp -s $(1) $(VENV)/$(1) || { \
	echo "Installing $(1) ..."; \
	if $(BIN)/python -m pip install --disable-pip-version-check --no-deps --requirement $(1) >$(VENV)/pip.log 2>&1; then \
		cp $(1) $(VENV)/$(1); \
	else \
		tail -n 20 $(VENV)/pip.log >&2; echo "Installing $(1) failed: is the network there? All of pip's output is in $(VENV)/pip.log." >&2; exit 1; \
	fi; \
}
endef

$(BIN)/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Your Python can't make virtual environments: install its module ensurepip (on Debian: apt install python3-venv)." >&2; \
		else \
			echo "Python 3.11 or newer is needed, and none was found: install it, or name it: make PYTHON=/path/to/python3" >&2; \
		fi; exit 1; }
	@mkdir -p "$(dir $(VENV))" 2>/dev/null; [ -w "$(dir $(VENV))" ] || { echo "This folder can't be written to: copy the checkout into a folder of your own." >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)
