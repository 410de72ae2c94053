"""Error messages for missing or invalid settings and databases at startup."""

import re
from pathlib import Path

import pytest

from tests.backends import SQLiteBackend
from tests.servers.running import Installation, Server, wait_until


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("database.lock_timeout", "soon"),
        ("database.url", "$GALAXY_EXPRESS_DATABSE_URL"),
        ("database.url", "sqlite:///$NO_SUCH_FOLDER/galaxy_express.db"),
    ],
    ids=["invalid value", "unset variable", "unset variable in a path"],
)
def test_invalid_setting(installation: Installation, name: str, key: str, value: str) -> None:
    """An invalid setting makes startup fail, and the log names it."""
    installation.configure(key, value)
    server = installation.server(name)
    server.start()
    try:
        assert server.wait() != 0
    finally:
        if server.is_running():
            server.kill()
    assert re.search(f"^{re.escape(key)}: ", server.log, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "is_there"),
    [("baseplate-serve", True), ("gunicorn", False)],
    ids=["no tables", "no database"],
)
def test_missing_schema(tmp_path: Path, name: str, is_there: bool) -> None:
    """Without tables the service starts, logs it, is alive but not ready, and becomes ready once
    they exist."""
    database = SQLiteBackend(tmp_path / "galaxy_express.db")
    installation = Installation(tmp_path, database)
    if is_there:
        database.rows("VACUUM")
    with installation.server(name) as server:
        error = (
            "lacks the tables counters, packages, preference_updates, preferences"
            if is_there
            else "is unavailable"
        )
        assert re.search(rf"The database sqlite:///\S*galaxy_express.db {error}", server.log)
        assert not server.is_healthy("readiness")
        answer = server.request("GET", "/statistics")
        assert (answer.status, answer.is_problem) == (503, True)
        assert database.path.exists() == is_there

        installation.create_schema()
        wait_until(lambda: server.is_healthy("readiness"), "the service is ready")
        assert server.request("GET", "/statistics").status == 200


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("GALAXY_EXPRESS_DRAIN_SECONDS", ["5s", "-1", "nan", "inf", "", "60", "29"]),
        ("GALAXY_EXPRESS_WORKERS", ["two", "0", "-1", "1.5", "", "513", "99999999"]),
        ("GALAXY_EXPRESS_BIND", ["", "9090", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999"]),
    ],
)
def test_invalid_variable_stops_the_start(
    installation: Installation, variable: str, values: list[str]
) -> None:
    """gunicorn exits immediately, with a one-line message that names the variable."""
    for value in values:
        server = installation.gunicorn()
        log = _log_of_failed_start(server, **{variable: value})
        assert variable in log
        assert "Traceback" not in log


def test_all_invalid_variables_are_reported_together(installation: Installation) -> None:
    """gunicorn exits with one line per invalid variable."""
    invalid = {
        "GALAXY_EXPRESS_BIND": "9090",
        "GALAXY_EXPRESS_WORKERS": "two",
        "GALAXY_EXPRESS_DRAIN_SECONDS": "5s",
    }
    log = _log_of_failed_start(installation.gunicorn(), **invalid)
    assert [line.partition(":")[0] for line in log.splitlines()] == list(invalid)


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (["--preload"], "preload_app"),
        (["--keep-alive", "0"], "keepalive"),
        (["--certfile", "configs/production.ini"], "certfile"),
    ],
)
def test_unsupported_settings_of_gunicorn(
    installation: Installation, options: list[str], setting: str
) -> None:
    """A gunicorn setting that the worker doesn't support is rejected with a one-line message."""
    log = _log_of_failed_start(installation.gunicorn(*options))
    assert setting in log
    assert "Traceback" not in log


def _log_of_failed_start(server: Server, **variables: str) -> str:
    server.environment |= variables
    server.start()
    try:
        assert server.wait(30) != 0
    finally:
        if server.is_running():
            server.kill()
    return server.log
