"""Invalid settings stop a server with a one-line message each."""

import re
import signal
from pathlib import Path

import pytest

from tests.servers.running import Installation, Server, wait_until


def log_of_failed_start(server: Server, workers: str = "2") -> str:
    """Start a server that is expected to fail, and return its log."""
    server.environment["GALAXY_EXPRESS_WORKERS"] = workers
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


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended, and its parent doesn't know it yet."""
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_workers_that_fail_together(installation: Installation) -> None:
    """If several workers fail at the same moment, gunicorn stops without a traceback of its own."""
    installation.configure("desk.timeuot", "5 seconds")
    server = installation.gunicorn(workers=2)
    server.start()
    try:
        wait_until(lambda: len(server.workers) == 2, "both workers were started")
        server.signal(signal.SIGSTOP)
        workers = server.workers
        wait_until(lambda: all(map(is_zombie, workers)), "both workers have failed")
        server.signal(signal.SIGCONT)
        assert server.wait() == 4
    finally:
        if server.is_running():
            server.kill()
    assert "desk.timeuot: no such setting" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[app:main]", "[app:mian]", "No section: 'app:main'"),
        ("[app:main]", "", "File contains no section headers."),
        ("metrics.enabled", "factory", "option 'factory' in section 'app:main' already exists"),
        ("metrics.enabled = ", "metrics.enabled = un", "metrics.enabled: "),
        ("factory = galaxy_express.serving.wsgi", "# ", "[app:main] factory: is missing"),
        ("[shell]", "[loggers]\nkeys = root\n[shell]", "[formatters]: is missing, but there is"),
        ("# The application.", "# L'application r\xe9elle.", ".ini is not UTF-8: "),
    ],
)
def test_invalid_file_stops_the_start(
    installation: Installation, name: str, old: str, new: str, message: str
) -> None:
    """An invalid configuration file stops a server with a one-line message."""
    for path in (installation.folder / "configs").glob("*.ini"):
        path.write_text(path.read_text().replace(old, new), encoding="latin-1")
    assert message in log_of_failed_start(installation.server(name))


MODULES = "galaxy_express.serving"
FACTORIES = pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nope.x:y", "there is no module nope: 'nope.x:y'"),
        (
            f"{MODULES}.nope:make",
            f"there is no module {MODULES}.nope: '{MODULES}.nope:make'",
        ),
        (f"{MODULES}.logs:nope", f"{MODULES}.logs has no function nope: '{MODULES}.logs:nope'"),
        (f"{MODULES}.bind:errno", f"{MODULES}.bind has no function errno: '{MODULES}.bind:errno'"),
        (f"{MODULES}.bind:", f"must be like module:function, not '{MODULES}.bind:'"),
    ],
)


@FACTORIES
@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_wrong_factory_of_the_application(
    installation: Installation, name: str, factory: str, message: str
) -> None:
    """A factory that doesn't exist, or isn't one, stops a server with a one-line message."""
    for path in (installation.folder / "configs").glob("*.ini"):
        path.write_text(path.read_text().replace(f"{MODULES}.wsgi:make_app", factory))
    lines = log_of_failed_start(installation.server(name)).splitlines()
    assert any(line.startswith(f"[app:main] factory: {message}") for line in lines)


@FACTORIES
def test_wrong_factory_of_the_server(
    installation: Installation, factory: str, message: str
) -> None:
    """The factory of Baseplate's server is checked like that of the application."""
    path = installation.folder / "configs" / "development.ini"
    path.write_text(path.read_text().replace(f"{MODULES}.baseplate_server", factory))
    lines = log_of_failed_start(installation.baseplate_serve()).splitlines()
    assert any(line.startswith(f"[server:main] factory: {message}") for line in lines)


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


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--workers=0", "gunicorn's workers must be at least 1"),
        ("--worker-connections=0", "gunicorn's worker_connections must be at least 1"),
        ("--access-logfile=-", "gunicorn's accesslog isn't supported"),
        ("--threads=4", "gunicorn's threads isn't supported"),
        ("--forwarded-allow-ips=*", "gunicorn's forwarded_allow_ips isn't supported"),
        ("--proxy-protocol", "gunicorn's proxy_protocol isn't supported"),
        ("--keep-alive=0", "gunicorn's keepalive must be at least 1"),
        ("--worker-class=sync", "gunicorn's worker_class isn't supported"),
        ("--worker-tmp-dir=nowhere", "gunicorn's worker_tmp_dir isn't a folder: nowhere"),
        ("--log-level=loud", "gunicorn's loglevel isn't supported"),
        ("--statsd-host=localhost:8125", "gunicorn's statsd_host isn't supported"),
        ("--limit-request-line=100", "gunicorn's limit_request_line must be at least 4000"),
        ("--limit-request-fields=1", "gunicorn's limit_request_fields must be at least 32"),
    ],
)
def test_settings_of_gunicorn_without_effect_stop_the_start(
    installation: Installation, option: str, message: str
) -> None:
    """A gunicorn setting without effect, or with which nobody is served, is rejected."""
    assert message in log_of_failed_start(installation.gunicorn(option))


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_unknown_variable_stops_the_start(installation: Installation, name: str) -> None:
    """A misspelt environment variable stops a server, unless the configuration file has it."""
    server = installation.server(name)
    installation.configure("desk.max_group", "$GALAXY_EXPRESS_GROUP")
    server.environment = server.environment | {
        "GALAXY_EXPRESS_GROUP": "many",
        "GALAXY_EXPRESS_WORKRES": "4",
        # As Kubernetes sets them for a service named galaxy-express.
        "GALAXY_EXPRESS_SERVICE_HOST": "10.0.0.1",
        "GALAXY_EXPRESS_SERVICE_PORT": "9090",
        "GALAXY_EXPRESS_PORT_9090_TCP_ADDR": "10.0.0.1",
    }
    message = "GALAXY_EXPRESS_WORKRES: no such variable (did you mean GALAXY_EXPRESS_WORKERS?)"
    assert message in log_of_failed_start(server).splitlines()
    del server.environment["GALAXY_EXPRESS_WORKRES"]
    assert "desk.max_group: must be a whole number" in log_of_failed_start(server)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("BIND", "192.0.2.1:9090", "this machine doesn't have that address"),
        ("BIND", "host.invalid:9090", "Can't listen on host.invalid:9090"),
        ("BIND", "unix:", "is not the path of a socket"),
        ("BIND", "unix:/nowhere/socket", "is not the path of a socket"),
        ("METRICS_BIND", "70000", "must be a port"),
        ("WORKERS", "two", "is not a number of processes"),
        ("DRAIN_SECONDS", "5s", "is not a number of seconds"),
    ],
)
def test_invalid_variable_stops_the_start(
    installation: Installation, variable: str, value: str, message: str
) -> None:
    """An environment variable with an unusable value stops gunicorn at once, and is named."""
    server = installation.gunicorn()
    server.environment |= {f"GALAXY_EXPRESS_{variable}": value}
    log = log_of_failed_start(server, workers=value if variable == "WORKERS" else "2")
    assert re.search(f"^GALAXY_EXPRESS_{variable}: .*{message}", log, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "section"),
    [("baseplate-serve", "desk"), ("gunicorn", "desk"), ("gunicorn", "server:main")],
)
def test_unknown_section_stops_the_start(
    installation: Installation, name: str, section: str
) -> None:
    """A section of the configuration file that nothing reads stops a server."""
    for path in (installation.folder / "configs").glob("*.ini"):
        path.write_text(path.read_text().replace("[shell]", f"[{section}]\nmax_group = 5\n[shell]"))
    log = log_of_failed_start(installation.server(name))
    assert re.search(rf"^\[{section}\]: (no such section|has no effect)", log, re.MULTILINE)
