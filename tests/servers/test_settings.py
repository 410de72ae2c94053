"""Invalid settings stop a server with a one-line message each."""

import re
import signal
from pathlib import Path

import pytest

from tests.servers.running import Installation, Server, wait_until


def log_of_failed_start(server: Server, **variables: str) -> str:
    """Start a server that is expected to fail, and return its log.

    :param variables: environment variables; by default, there is one worker.
    """
    server.environment |= {"GALAXY_EXPRESS_WORKERS": "1"} | variables
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
    installation.configure("database.lock_timeout", "soon")
    installation.configure("database.url", "sqlite:///$NO_SUCH_FOLDER/galaxy_express.db")
    messages = {
        "desk.timeuot: no such setting (did you mean desk.timeout?)",
        "http.path_prefix: must be a path such as /express, without a / at its end, not 'express/'",
        (
            "database.lock_timeout: must be a length of time such as 5 seconds or 200 milliseconds,"
            " not 'soon'"
        ),
        "database.url: the environment variable $NO_SUCH_FOLDER is not set",
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


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("baseplate-serve", "[app:main]", "[app:mian]", "No section: 'app:main'"),
        ("gunicorn", "[app:main]", "[app:mian]", "No section: 'app:main'"),
        ("gunicorn", "[app:main]", "", "File contains no section headers."),
        ("gunicorn", "metrics.enabled", "factory", "option 'factory' in section 'app:main'"),
        ("baseplate-serve", "metrics.enabled = ", "metrics.enabled = un", "metrics.enabled: "),
        ("gunicorn", "metrics.enabled = ", "metrics.enabled = un", "metrics.enabled: "),
        ("gunicorn", "factory = galaxy_express.s", "# ", "[app:main] factory: is missing"),
        ("baseplate-serve", "[shell]", "[loggers]\n[shell]", "[formatters]: is missing, but"),
        ("gunicorn", "# The application.", "# L'application r\xe9elle.", ".ini is not UTF-8: "),
        ("baseplate-serve", "# The application.", "# r\xe9elle.", ".ini is not UTF-8: "),
    ],
)
def test_invalid_file_stops_the_start(
    installation: Installation, name: str, old: str, new: str, message: str
) -> None:
    """An invalid configuration file stops a server with a one-line message."""
    for path in (installation.folder / "configs").glob("*.ini"):
        path.write_text(path.read_text().replace(old, new), encoding="latin-1")
    assert message in log_of_failed_start(installation.server(name))


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_wrong_factory_of_the_application(installation: Installation, name: str) -> None:
    """A factory that doesn't exist stops a server with a one-line message."""
    installation.configure("factory", "galaxy_express.serving.nope:make_app")
    lines = log_of_failed_start(installation.server(name)).splitlines()
    message = "[app:main] factory: there is no module galaxy_express.serving.nope"
    assert any(line.startswith(message) for line in lines)


def test_wrong_factory_of_the_server(installation: Installation) -> None:
    """The factory of Baseplate's server is checked like that of the application."""
    path = installation.folder / "configs" / "development.ini"
    path.write_text(path.read_text().replace("serving.baseplate_server", "serving.nope"))
    lines = log_of_failed_start(installation.baseplate_serve()).splitlines()
    message = "[server:main] factory: there is no module galaxy_express.serving.nope"
    assert any(line.startswith(message) for line in lines)


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


def test_other_worker_class_stops_the_start(installation: Installation) -> None:
    """Worker classes other than the service's own are rejected."""
    server = installation.gunicorn("--worker-class=sync")
    assert "gunicorn's worker_class isn't supported" in log_of_failed_start(server)


def test_address_without_a_port_stops_the_start(installation: Installation) -> None:
    """An address without a port, for which gunicorn would choose one, is rejected."""
    log = log_of_failed_start(installation.gunicorn("--bind=127.0.0.1"))
    assert "gunicorn's bind: '127.0.0.1' is not an address to listen on" in log
    assert "Listening" not in log


# Settings of gunicorn that would have no effect, and unusable values of others.
UNSUITABLE = {
    "--workers=0": "workers must be at least 1",
    "--worker-connections=0": "worker_connections must be at least 1",
    "--access-logfile=-": "accesslog isn't supported",
    "--threads=4": "threads isn't supported",
    "--forwarded-allow-ips=*": "forwarded_allow_ips isn't supported",
    "--proxy-protocol": "proxy_protocol isn't supported",
    "--preload": "preload_app isn't supported",
    "--keep-alive=0": "keepalive must be at least 1",
    "--certfile=configs/production.ini": "certfile and keyfile aren't supported",
    "--worker-tmp-dir=nowhere": "worker_tmp_dir isn't a folder: nowhere",
    "--log-level=loud": "loglevel isn't supported",
    "--statsd-host=localhost:8125": "statsd_host isn't supported",
    "--limit-request-line=100": "limit_request_line must be at least 4000",
    "--limit-request-fields=1": "limit_request_fields must be at least 32",
    "--log-syslog": "syslog isn't supported",
    "--http2-max-frame-size=20000": "http2_max_frame_size isn't supported",
    "--dirty-timeout=5": "dirty_timeout isn't supported",
    "--max-requests-jitter=5": "max_requests_jitter has no effect, since max_requests is 0",
    "--reload-engine=poll": "reload_engine has no effect, since reload is False",
    "--control-socket=control": "control_socket has no effect, since control_socket_disable is",
    "--graceful-timeout=1": "graceful_timeout, which is 1: requests would be aborted",
}


def test_unsuitable_settings_of_gunicorn_stop_the_start(installation: Installation) -> None:
    """All gunicorn settings without effect, or with unusable values, are rejected together."""
    log = log_of_failed_start(installation.gunicorn(*UNSUITABLE))
    assert [message for message in UNSUITABLE.values() if f"gunicorn's {message}" not in log] == []


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_unknown_variable_stops_the_start(installation: Installation, name: str) -> None:
    """A misspelt environment variable stops a server."""
    log = log_of_failed_start(installation.server(name), GALAXY_EXPRESS_WORKRES="4")
    message = "GALAXY_EXPRESS_WORKRES: no such variable (did you mean GALAXY_EXPRESS_WORKERS?)"
    assert message in log.splitlines()


def test_invalid_variables_stop_the_start(installation: Installation) -> None:
    """gunicorn exits at once, with one line for each invalid variable."""
    invalid = {
        "GALAXY_EXPRESS_BIND": "9090",
        "GALAXY_EXPRESS_WORKERS": "two",
        "GALAXY_EXPRESS_DRAIN_SECONDS": "5s",
        "GALAXY_EXPRESS_METRICS_BIND": "70000",
    }
    log = log_of_failed_start(installation.gunicorn(), **invalid)
    assert [line.partition(":")[0] for line in log.splitlines()] == list(invalid)


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
