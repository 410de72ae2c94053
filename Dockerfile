# Two images: `production`, the default, only has what the service needs to run; `development` has the
# tools, and uses mounted source code (docker-compose.yml).

FROM python:3.13-slim AS base
# The warning is ignored because Baseplate and Pyramid import pkg_resources; setuptools is pinned.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONWARNINGS="ignore:pkg_resources is deprecated:UserWarning" \
    GALAXY_EXPRESS_DATABASE_URL=sqlite:////data/galaxy_express.db
# 1000 is the uid of most developers, so that files written to mounted source code belong to them. The
# image may also run as any other uid, so /data is writable by everyone.
RUN useradd --uid 1000 --create-home galaxy \
    && install --directory --owner=galaxy --group=galaxy --mode=1777 /data
WORKDIR /app
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-m", "galaxy_express.serving.health"]


FROM base AS dependencies
# `make` compares the copy in the environment with the requirements. The file is complete; --no-deps
# keeps pip from installing posix-ipc, which is omitted.
COPY requirements.txt /opt/venv/
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --requirement /opt/venv/requirements.txt


FROM base AS development
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl make \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies --chown=galaxy:galaxy /opt/venv /opt/venv
USER 1000
COPY --chown=galaxy:galaxy requirements-dev.txt /opt/venv/
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --requirement /opt/venv/requirements-dev.txt
# The mounted source code may not be writable, so the tools' caches are elsewhere.
ENV VENV=/opt/venv \
    GALAXY_EXPRESS_BIND=0.0.0.0:9090 \
    COVERAGE_FILE=/tmp/coverage \
    HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis \
    MYPY_CACHE_DIR=/tmp/mypy \
    PYTEST_ADDOPTS="-o cache_dir=/tmp/pytest" \
    PYTHONPYCACHEPREFIX=/tmp/pycache \
    RUFF_CACHE_DIR=/tmp/ruff
# Prometheus metrics, which are reset when the server starts.
EXPOSE 6060
CMD ["python", "-m", "galaxy_express.serving.reloader", "configs/development.ini"]


FROM base AS production
COPY --from=dependencies /opt/venv /opt/venv
COPY configs ./configs
COPY galaxy_express ./galaxy_express
USER 1000
# Prometheus metrics.
EXPOSE 6060
CMD ["gunicorn", "--config", "configs/gunicorn.conf.py"]
