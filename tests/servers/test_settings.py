"""Invalid settings stop a server with a one-line message each."""

import pytest

from tests.servers.running import Installation, Server


def log_of_failed_start(server: Server) -> str:
    """Start a server that is expected to fail, and return its log.

    It has one worker: if a second worker fails while gunicorn is stopping because of the first,
    gunicorn's master may log a traceback after the message.
    """
    server.environment["GALAXY_EXPRESS_WORKERS"] = "1"
    server.start()
    try:
        assert server.wait() != 0
    finally:
        if server.is_running():
            server.kill()
    assert "Traceback" not in server.log
    return server.log


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_invalid_settings_stop_the_start(installation: Installation, name: str) -> None:
    """A server exits with a one-line message for each invalid setting."""
    installation.configure("desk.timeuot", "5 seconds")
    installation.configure("http.path_prefix", "express/")
    messages = {
        "desk.timeuot: no such setting (did you mean desk.timeout?)",
        "http.path_prefix: must be a path such as /express, without a / at its end, not 'express/'",
    }
    assert messages <= set(log_of_failed_start(installation.server(name)).splitlines())


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[app:main]", "[app:mian]", "No section: 'app:main'"),
        ("[app:main]", "", "File contains no section headers."),
        ("metrics.enabled", "factory", "option 'factory' in section 'app:main' already exists"),
        ("metrics.enabled = ", "metrics.enabled = un", "metrics.enabled: "),
    ],
)
def test_invalid_file_stops_the_start(
    installation: Installation, name: str, old: str, new: str, message: str
) -> None:
    """An invalid configuration file stops a server with a one-line message."""
    for path in (installation.folder / "configs").glob("*.ini"):
        path.write_text(path.read_text().replace(old, new))
    assert message in log_of_failed_start(installation.server(name))


def test_invalid_settings_of_baseplate_serve_stop_the_start(installation: Installation) -> None:
    """The server's settings are checked as strictly as the application's."""
    path = installation.folder / "configs" / "development.ini"
    text = path.read_text().replace("stop_timeout", "stop_timeuot")
    path.write_text(text.replace("drain_time = 1 millisecond", "drain_time = 0 seconds"))
    messages = {
        "[server:main] stop_timeuot: no such setting (did you mean stop_timeout?)",
        "[server:main] drain_time: must be more than zero, not '0 seconds'",
    }
    assert messages <= set(log_of_failed_start(installation.baseplate_serve()).splitlines())


def test_unknown_setting_of_gunicorn_stops_the_start(installation: Installation) -> None:
    """An unknown gunicorn setting, which gunicorn itself would ignore, is rejected."""
    with open(installation.folder / "configs" / "gunicorn.conf.py", "a") as config:
        config.write("keepalvie = 5\n")
    assert "gunicorn has no setting keepalvie" in log_of_failed_start(installation.gunicorn())
