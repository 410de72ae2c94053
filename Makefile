# `make run` and `make test` set up everything they need. `make help` lists the other commands.

# The preferred Python that is installed and can create virtual environments.
PYTHON ?= $(shell for python in python3.13 python3.14 python3.15 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
QUOTED_PYTHON = '$(subst ','\'',$(or $(PYTHON),false))'
# A relative path, since the path of the checkout may contain spaces.
VENV ?= .venv
BIN := $(VENV)/bin
# Recipes read names and addresses from the environment, since they may contain spaces and quotes.
export CONFIG ?= configs/development.ini
ifndef BIND
BIND := $(or $(GALAXY_EXPRESS_BIND),127.0.0.1:9090)
endif

export GALAXY_EXPRESS_BIND := $(BIND)
export GALAXY_EXPRESS_DATABASE_URL ?= sqlite:///galaxy_express.db
# Baseplate and Pyramid import pkg_resources, and setuptools is pinned for them.
export PYTHONWARNINGS := ignore:pkg_resources is deprecated:UserWarning

# The tests to run, and options for pytest: make test T=tests/unit OPTIONS=-x
T ?=
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help run serve test test-unit coverage lint format bench bench-growth bench-instances bench-profile demo torture shell migratedb dropdb resetdb backupdb auditdb partitiondb forgetrecipient requirements wheel clean install install-dev check-port

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: install check-port migratedb ## Serve on port 9090 for development, and restart when code changes.
	@exec $(BIN)/python -m galaxy_express.serving.reloader "$$CONFIG"

serve: CONFIG = configs/production.ini
serve: install check-port migratedb ## Serve on port 9090 as in production: gunicorn, several workers.
	@exec $(BIN)/python -m gunicorn --config configs/gunicorn.conf.py

check-port: install
	@$(BIN)/python -m galaxy_express.serving.bind "$$GALAXY_EXPRESS_BIND"

# PostgreSQL, a browser and strace are used if they are installed. In CI no test may be skipped.
# Tests mostly wait, so there are more processes than cores on small machines.
PYTEST = pytest --numprocesses=5 --dist=worksteal $(OPTIONS) $(T)

test: install-dev ## Run the tests (T=tests/functional/test_batch.py OPTIONS=-x).
	$(BIN)/python -m $(PYTEST)

coverage: install-dev ## Run the tests, and measure their coverage.
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m $(PYTEST)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report $(if $(T)$(OPTIONS),,--fail-under=99)

test-unit: install-dev ## Run the unit tests, in seconds.
	$(BIN)/python -m pytest tests/unit $(OPTIONS)

lint: install-dev ## Check style, types and imports.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python $(BIN)/lint-imports

format: install-dev ## Format the code.
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: install-dev ## Measure the speed (OPTIONS=--help).
	$(BIN)/python -m benchmarks $(OPTIONS)

bench-growth: install-dev ## Measure the effect of ten million packages (OPTIONS=--help).
	$(BIN)/python -m benchmarks.growth $(OPTIONS)

bench-instances: install-dev ## Measure several instances with PostgreSQL (OPTIONS=--help).
	$(BIN)/python -m benchmarks.instances $(OPTIONS)

bench-profile: install-dev ## Measure the cost of each part of a send (OPTIONS=--help).
	$(BIN)/python -m benchmarks.profile $(OPTIONS)

demo: install ## Fill a running service with a few thousand packages (OPTIONS=--help).
	@$(BIN)/python -m galaxy_express.ops.demo "http://$$GALAXY_EXPRESS_BIND" $(OPTIONS)

torture: install-dev ## Attack the service for half an hour: kills, faults, floods (OPTIONS=--help).
	$(BIN)/python -m pytest tests/torture --torture --timeout=0 --override-ini=faulthandler_timeout=0 $(OPTIONS)

shell: install ## Open a Python shell with the models and a database connection.
	@$(BIN)/python -m galaxy_express.ops.shell "$$CONFIG"

migratedb: install ## Create the tables, or migrate them to this version.
	@$(BIN)/python -m galaxy_express.ops.script "$$CONFIG" galaxy_express.models:create_schema

dropdb: install ## Drop the tables and all data (FORCE=1 skips the question).
	@$(BIN)/python -m galaxy_express.ops.script "$$CONFIG" galaxy_express.models:drop_schema

resetdb: dropdb migratedb ## Drop and recreate the tables.

backupdb: install ## Copy the SQLite database while the service runs (TO=backup.db).
	@$(BIN)/python -m galaxy_express.ops.script "$$CONFIG" galaxy_express.ops.backup:back_up "$$TO"

auditdb: install ## Recount the totals, compare them with the counters, and look for damage.
	@$(BIN)/python -m galaxy_express.ops.script "$$CONFIG" galaxy_express.ops.audit:audit_database

partitiondb: install ## Partition the table of packages on PostgreSQL (PARTITIONS=16).
	@$(BIN)/python -m galaxy_express.ops.script "$$CONFIG" galaxy_express.ops.partition:partition_packages "$$PARTITIONS"

forgetrecipient: install ## Delete the preferences of one recipient (RECIPIENT=leela).
	@$(BIN)/python -m galaxy_express.ops.script "$$CONFIG" galaxy_express.ops.forget:forget_recipient

# posix-ipc has no wheels for the newest Pythons. Baseplate requires it, but only imports it in parts
# that are not used here, so it is omitted, and no compiler is needed. UPGRADE= keeps the versions.
UPGRADE ?= --upgrade
COMPILE = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 $(UPGRADE) \
	--no-annotate --no-header --generate-hashes --no-emit-package posix-ipc

requirements: install-dev ## Pin the newest versions of the requirements.
	$(COMPILE) setup.py --output-file requirements.txt
	$(COMPILE) --constraint requirements.txt requirements-dev.in --output-file requirements-dev.txt

wheel: install-dev ## Build a wheel into dist/.
	$(BIN)/python -m uv build --quiet --wheel --no-build-isolation --python $(BIN)/python

clean: ## Remove the virtual environment and all build files.
	rm -rf $(VENV) build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

install: $(BIN)/python
	@$(call install,requirements.txt)

install-dev: install
	@$(call install,requirements-dev.txt)

# Installs the requirements in a file, unless the environment already has them. The file is complete;
# --no-deps keeps pip from installing posix-ipc.
define install
cmp -s $(1) $(VENV)/$(1) || { \
	echo "Installing $(1) ..."; \
	if $(BIN)/python -m pip install --disable-pip-version-check --no-deps --requirement $(1) >$(VENV)/pip.log 2>&1; then \
		cp $(1) $(VENV)/$(1); \
	else \
		tail -n 20 $(VENV)/pip.log >&2; echo "Installing $(1) failed: is the network available? pip's complete output is in $(VENV)/pip.log." >&2; exit 1; \
	fi; \
}
endef

$(BIN)/python:
	@$(QUOTED_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Your Python can't create virtual environments: install its module ensurepip (on Debian: apt install python3-venv)." >&2; \
		else \
			echo "Python 3.11 or newer is needed, but was not found: install it, or set its path: make PYTHON=/path/to/python3" >&2; \
		fi; exit 1; }
	@mkdir -p "$(dir $(VENV))" 2>/dev/null; [ -w "$(dir $(VENV))" ] || { echo "This folder isn't writable: copy the checkout to a folder where you can write." >&2; exit 1; }
	@echo "Creating the virtual environment $(VENV) with "$(QUOTED_PYTHON)" ..."
	@# Recreate an environment whose Python was removed.
	@$(QUOTED_PYTHON) -m venv $$([ ! -e $(VENV)/pyvenv.cfg ] || echo --clear) $(VENV)
