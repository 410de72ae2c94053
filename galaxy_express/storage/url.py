"""The setting ``database.url``."""

import os
import re
from typing import Any
from urllib.parse import quote, unquote

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from galaxy_express.storage.postgresql.servers import split_hosts

_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg2")

# Parameters of PostgreSQL that have their own settings.
_SETTINGS = {
    "application_name": "database.application_name",
    "connect_timeout": "database.connect_timeout",
    "tcp_user_timeout": "database.statement_timeout",
    "options": "database.lock_timeout and database.statement_timeout",
}

# Parameters without effect, since servers are tried one at a time and text is always UTF-8.
_WITHOUT_EFFECT = {
    "client_encoding": "the service always uses UTF-8",
    "load_balance_hosts": "the hosts are tried in order",
}

# Variables of libpq that would change more than what the URL leaves open, and their replacements.
_ENVIRONMENT = {
    "PGOPTIONS": ("options", _SETTINGS["options"]),
    "PGSERVICE": ("service", "?service= in the URL"),
}

# postgresql://user:password@a:1,b:2/name, a form that PostgreSQL supports and SQLAlchemy doesn't.
_SEVERAL_HOSTS = re.compile(
    r"(postgresql(?:\+\w+)?://(?:[^/?#]*@)?)([^/?#@]*,[^/?#@]*)((?:[/?#].*)?)"
)
_HOST = re.compile(r"(\[[^\]]+\]|[^\[\]:]*)(?::(\d*))?")


def database_url(text: str) -> URL:
    """Parse a URL of SQLite or PostgreSQL.

    :raises ValueError: for anything else, and for parts that would have no effect.
    """
    several = _SEVERAL_HOSTS.fullmatch(text)
    try:
        url = make_url(several[1] + several[3] if several else text)
    except (exc.ArgumentError, ValueError):
        raise ValueError("must be a URL such as sqlite:///galaxy_express.db") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"the URL must begin with sqlite or postgresql, not {url.drivername}")
    if url.get_backend_name() == "sqlite":
        _check_sqlite(url)
    else:
        if several:
            url = _add_hosts(url, several[2])
        elif url.host:
            url = url.set(host=_decode_host(url.host))
        _check_postgresql(url)
    return url


def postgresql_parameters(url: URL) -> dict[str, Any]:
    """Return the parameters of libpq in a PostgreSQL URL."""
    _, parameters = url.get_dialect()().create_connect_args(url)
    return dict(parameters)


def describe_postgresql(url: URL) -> str:
    """Return a PostgreSQL URL for a log: without the password and other parameters."""
    parameters = postgresql_parameters(url)
    hosts = split_hosts({name: parameters.get(name, "") for name in ("host", "port", "hostaddr")})
    named = ",".join(
        quote(host.host or host.hostaddr, safe=":") + (f":{host.port}" if host.port else "")
        for host in hosts
    )
    user = f"{url.username}{':***' if url.password else ''}@" if url.username else ""
    return f"{url.drivername}://{user}{named}/{url.database or ''}"


def _check_sqlite(url: URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise ValueError(
            "SQLite must be in a file: in memory, each connection would have its own database"
        )
    if url.host or url.username or url.password or url.port:
        raise ValueError("SQLite has no host: sqlite:///relative.db or sqlite:////absolute.db")
    if url.query:
        raise ValueError(f"{', '.join(url.query)} after ? in the URL has no effect with SQLite")


def _add_hosts(url: URL, text: str) -> URL:
    matches = [_HOST.fullmatch(item) for item in text.split(",")]
    if "host" in url.query or "port" in url.query:
        raise ValueError("host is in the URL twice, before and after ?")
    if not all(match and match[1] for match in matches):
        # The text isn't shown, since it may be a part of the password.
        raise ValueError("the URL has a comma, but not a list of hosts such as a:5432,b:5432")
    hosts = ",".join(_decode_host(match[1].strip("[]")) for match in matches if match)
    ports = ",".join(match[2] or "" for match in matches if match)
    return url.update_query_dict({"host": hosts, "port": ports})


def _decode_host(text: str) -> str:
    if "@" in text:
        raise ValueError("an @ in the user or the password in the URL must be written as %40")
    # The folder of a socket has slashes, which are percent-encoded in a URL.
    host = unquote(text)
    if "," in host:
        raise ValueError(f"the host {text} has a comma, which separates hosts")
    return host


def _check_postgresql(url: URL) -> None:
    for variable, (name, replacement) in _ENVIRONMENT.items():
        if os.environ.get(variable) and name not in url.query:
            raise ValueError(
                f"the environment variable {variable} isn't supported: unset it, or use"
                f" {replacement}"
            )
    before = {
        "user": url.username,
        "password": url.password,
        "host": url.host,
        "port": url.port,
        "dbname": url.database,
        "database": url.database,
    }
    for name, value in url.query.items():
        if name in _SETTINGS:
            raise ValueError(f"{name} in the URL has no effect: use {_SETTINGS[name]}")
        if name in _WITHOUT_EFFECT:
            raise ValueError(f"{name} in the URL has no effect: {_WITHOUT_EFFECT[name]}")
        if (name, value) == ("target_session_attrs", "prefer-standby"):
            raise ValueError("prefer-standby in the URL has no effect: the service needs to write")
        if isinstance(value, tuple) and name != "host":
            raise ValueError(f"{name} is in the URL twice")
        if before.get(name) is not None:
            raise ValueError(f"{name} is in the URL twice, before and after ?")
        try:
            make_dsn(**{name: "0"})
        except psycopg2.ProgrammingError:
            raise ValueError(
                f"the URL has {name}, but PostgreSQL has no parameter {name}"
            ) from None
        _check_value(name, value)
    split_hosts(postgresql_parameters(url))


def _check_value(name: str, value: Any) -> None:
    # libpq checks most values before it connects, which always fails: /dev/null isn't a folder.
    nowhere = {"host": "/dev/null", "hostaddr": ""}
    try:
        psycopg2.connect(make_dsn(**({name: value} | nowhere)))
    except psycopg2.OperationalError as error:
        reason = str(error).strip()
        if reason.startswith("invalid"):
            raise ValueError(f"the URL has an {reason}") from None
