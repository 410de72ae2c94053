"""What the service needs, and why. Everything else that tools read is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # The configuration files stand beside the package, and are installed within it.
    packages=[
        *find_packages(include=["galaxy_express", "galaxy_express.*"]),
        "galaxy_express.configs",
    ],
    package_dir={"galaxy_express.configs": "configs"},
    install_requires=[
        # The framework of the service: spans, metrics, configuration, serving, and reports
        # of errors to Sentry if $SENTRY_DSN says where. The later 2.7.1 brings a hundred
        # megabytes of packages that are of no use here.
        "baseplate[pyramid,sentry,sql]==2.7.0",
        # Routes and views; the newest that Baseplate works with.
        "pyramid>=1.10.8,<2",
        # Tables and statements; the newest that Baseplate works with.
        "sqlalchemy>=1.4.54,<2",
        # Migrations of the tables.
        "alembic>=1.14",
        # PostgreSQL's driver, the one that SQLAlchemy 1.4 and gevent work best with; this
        # build brings its own libpq and needs no compiler.
        "psycopg2-binary>=2.9.10",
        # Validation of what comes in, and JSON for what goes out.
        "pydantic>=2.10",
        # Typed dictionaries that pydantic can describe before Python 3.12.
        "typing-extensions>=4.12",
        # The event loop, which both servers run on.
        "gevent>=24.10.1,<27",
        # The server for production: several workers, graceful restarts.
        "gunicorn>=27,<28",
        # Parses requests for its worker, many times as fast as Python can, and strictly.
        "httptools>=0.7.1",
        # The demo's HTTP client.
        "requests>=2.32",
        # Restarts the development server when code changes.
        "hupper>=1.12",
        # Baseplate 2.7 and Pyramid 1.10 import pkg_resources, which 81 takes away.
        "setuptools<81",
    ],
)
