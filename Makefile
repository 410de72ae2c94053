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
.PHONY: help run serve test lint format shell migratedb dropdb resetdb requirements wheel clean install install-dev

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: install migratedb ## Serve on port 9090 for development, and restart when code changes.
	$(BIN)/baseplate-serve --bind $(BIND) --reload $(CONFIG)

serve: CONFIG = configs/production.ini
serve: install migratedb ## Serve on port 9090 as in production: gunicorn, several workers.
	$(BIN)/gunicorn --config configs/gunicorn.conf.py

test: install-dev ## Run the tests; the whole package must be covered.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: install-dev ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev ## Put the code into the style that lint asks for.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

shell: install ## Open a Python shell with the models and a database connection.
	$(BIN)/baseplate-shell $(CONFIG)

migratedb: install ## Create the tables that are missing.
	$(BIN)/baseplate-script $(CONFIG) galaxy_express.models:create_schema

dropdb: install ## Drop the tables, and with them everything stored.
	$(BIN)/baseplate-script $(CONFIG) galaxy_express.models:drop_schema

resetdb: dropdb migratedb ## Start anew with empty tables.

requirements: install-dev ## Pin the newest versions of everything in setup.py and requirements-dev.in.
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header \
		setup.py --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header \
		--constraint requirements.txt requirements-dev.in --output-file requirements-dev.txt

wheel: install-dev ## Build a wheel into dist/.
	$(BIN)/uv build --quiet --wheel --no-build-isolation

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(1) && cp $(1) $(VENV)/$(1); \
}
endef

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found; install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
