# `make run` and `make test` set up all that they need. `make help` lists the rest.

# The newest Python that everything is known to work with.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/development.ini
BIND ?= 127.0.0.1:9090

export GALAXY_EXPRESS_BIND ?= $(BIND)
export GALAXY_EXPRESS_DATABASE_URL ?= sqlite:///galaxy_express.db
# Baseplate and Pyramid import it, and setuptools is pinned for them.
export PYTHONWARNINGS := ignore:pkg_resources is deprecated:UserWarning

.DEFAULT_GOAL := help
.PHONY: help run serve test lint format bench bench-growth bench-profile demo torture shell migratedb dropdb resetdb auditdb requirements wheel clean install install-dev check-port

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: install check-port migratedb ## Serve on port 9090 for development, and restart when code changes.
	exec $(BIN)/python -m galaxy_express.serving.development --bind $(BIND) --reload $(CONFIG)

serve: CONFIG = configs/production.ini
serve: install check-port migratedb ## Serve on port 9090 as in production: gunicorn, several workers.
	$(BIN)/gunicorn --config configs/gunicorn.conf.py

# Servers would share the port in silence.
check-port: install
	@if $(call listens,$(BIND)); then \
		echo "Something listens on $(BIND) already: stop it, or choose another port (BIND=127.0.0.1:9191)." >&2; exit 1; \
	fi

# Without PostgreSQL a part of the code can't be reached. What servers covered that are killed
# is lost, so a line or two of the worker may be missing where all is covered.
test: install-dev ## Run the tests; with PostgreSQL, the whole package must be covered.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $(if $(GALAXY_EXPRESS_TEST_POSTGRES_URL),--fail-under=99)

lint: install-dev ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev ## Put the code into the style that lint asks for.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install-dev ## Measure how fast it is (OPTIONS=--help tells more).
	$(BIN)/python -m benchmarks $(OPTIONS)

bench-growth: install-dev ## Measure what ten million packages change (OPTIONS=--help).
	$(BIN)/python -m benchmarks.growth $(OPTIONS)

bench-profile: install-dev ## Measure what each part of a send costs (OPTIONS=--help).
	$(BIN)/python -m benchmarks.profile $(OPTIONS)

demo: install ## Fill a running service with a few thousand packages (OPTIONS=--help).
	$(BIN)/python -m galaxy_express.ops.demo http://$(BIND) $(OPTIONS)

torture: install-dev ## Attack it for ten minutes: kills, faults, floods (OPTIONS=--help).
	$(BIN)/python -m pytest tests/torture --torture $(OPTIONS)

shell: install ## Open a Python shell with the models and a database connection.
	$(BIN)/baseplate-shell $(CONFIG)

migratedb: install ## Create the tables that are missing.
	$(BIN)/baseplate-script $(CONFIG) galaxy_express.models:create_schema

dropdb: install ## Drop the tables, and with them everything stored.
	$(BIN)/baseplate-script $(CONFIG) galaxy_express.models:drop_schema

resetdb: dropdb migratedb ## Start anew with empty tables.

auditdb: install ## Recompute the totals, compare them with the counters, look for damage.
	$(BIN)/baseplate-script $(CONFIG) galaxy_express.ops.audit:audit_database

requirements: install-dev ## Pin the newest versions of everything in setup.py and requirements-dev.in.
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header \
		setup.py --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header \
		--constraint requirements.txt requirements-dev.in --output-file requirements-dev.txt

wheel: install-dev ## Build a wheel into dist/.
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python

clean: ## Remove the virtual environment and everything that was built.
	rm -rf $(VENV) build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

install: $(BIN)/python
	@$(call install,requirements.txt)

install-dev: install
	@$(call install,requirements-dev.txt)

# Installs what a file of requirements names, unless the environment has that already.
define install
cmp -s $(1) $(VENV)/$(1) || { \
	echo "Installing $(1) ..."; \
	if $(BIN)/python -m pip install --disable-pip-version-check --requirement $(1) >$(VENV)/pip.log 2>&1; then \
		cp $(1) $(VENV)/$(1); \
	elif grep -qi 'failed.*posix.ipc' $(VENV)/pip.log; then \
		echo "Python 3.14 needs a C compiler and Python's headers to build the package posix-ipc: install them, or use Python 3.13 (make PYTHON=python3.13, after make clean)." >&2; exit 1; \
	else \
		tail -n 20 $(VENV)/pip.log >&2; echo "Installing $(1) failed; all of pip's output is in $(VENV)/pip.log." >&2; exit 1; \
	fi; \
}
endef

# Whether something listens on a port of this machine.
define listens
$(BIN)/python -c 'import socket, sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1].rpartition(":")[2]))))' $(1)
endef

$(BIN)/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or newer is needed, and none was found; install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
