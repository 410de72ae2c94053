"""The setting ``database.url``: which database, and how to reach it."""

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg2")

# Parameters of PostgreSQL that have settings of their own.
_SETTINGS = {
    "application_name": "database.application_name",
    "connect_timeout": "database.connect_timeout",
    "tcp_user_timeout": "database.statement_timeout",
    "options": "database.lock_timeout and database.statement_timeout",
}


def database_url(text: str) -> URL:
    """Parse a URL of SQLite or PostgreSQL.

    :raises ValueError: for anything else, and for what it says that would have no effect.
    """
    if text.startswith("$"):
        raise ValueError(f"the environment variable {text} is not set")
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise ValueError("not a URL such as sqlite:///galaxy_express.db") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"the URL must begin with sqlite or postgresql, not {url.drivername}")
    if url.get_backend_name() == "sqlite":
        _check_sqlite(url)
    else:
        _check_postgresql(url)
    return url


def _check_sqlite(url: URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise ValueError("SQLite must be in a file: each connection has a memory of its own")
    if url.host or url.username or url.password or url.port:
        raise ValueError("SQLite has no host: sqlite:///relative.db or sqlite:////absolute.db")
    if url.query:
        raise ValueError(f"{', '.join(url.query)} after ? in the URL has no effect with SQLite")


def _check_postgresql(url: URL) -> None:
    before = {
        "user": url.username,
        "password": url.password,
        "host": url.host,
        "port": url.port,
        "dbname": url.database,
        "database": url.database,
    }
    for name in url.query:
        if name in _SETTINGS:
            raise ValueError(f"{name} in the URL has no effect: use {_SETTINGS[name]}")
        if before.get(name) is not None:
            raise ValueError(f"{name} is in the URL twice, before and after ?")
        try:
            make_dsn(**{name: "0"})
        except psycopg2.ProgrammingError:
            raise ValueError(f"PostgreSQL has no parameter {name}, which is in the URL") from None
