"""The requirements of the service, and why. All other metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # The configuration files are next to the package, and are installed inside it.
    packages=[
        *find_packages(include=["galaxy_express", "galaxy_express.*"]),
        "galaxy_express.configs",
    ],
    package_dir={"galaxy_express.configs": "configs"},
    install_requires=[
        # The framework of the service: spans, metrics, configuration, serving, and error
        # reports to Sentry if $SENTRY_DSN is set. The later 2.7.1 requires a hundred
        # megabytes of packages that are not used here.
        "baseplate[pyramid,sentry,sql]==2.7.0",
        # Routes and views; the newest version that Baseplate supports.
        "pyramid>=1.10.8,<2",
        # Tables and statements; the newest version that Baseplate supports.
        "sqlalchemy>=1.4.54,<2",
        # Migrations of the tables.
        "alembic>=1.14",
        # PostgreSQL's driver, which works best with SQLAlchemy 1.4 and gevent; this build
        # includes libpq and needs no compiler.
        "psycopg2-binary>=2.9.10",
        # Validation of requests, and rendering of JSON.
        "pydantic>=2.10",
        # Typed dictionaries that pydantic can describe before Python 3.12.
        "typing-extensions>=4.12",
        # The event loop, which both servers run on.
        "gevent>=24.10.1,<27",
        # The server for production: several workers, graceful restarts.
        "gunicorn>=27,<28",
        # Parses requests in our gunicorn worker, strictly and much faster than Python code.
        "httptools>=0.7.1",
        # Metrics, which Baseplate exports; metric_series.py and metrics_files.py use private names.
        "prometheus-client>=0.21,<0.27",
        # The demo's HTTP client.
        "requests>=2.32",
        # Restarts the development server when code changes.
        "hupper>=1.12",
        # Baseplate 2.7 and Pyramid 1.10 import pkg_resources, which 81 removed.
        "setuptools<81",
    ],
)
