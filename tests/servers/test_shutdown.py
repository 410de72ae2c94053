"""Shutdown and reload: requests in progress are finished first."""

import os
import random
import signal
import socket
import time
from itertools import count
from pathlib import Path

import pytest

from tests.servers.http_client import TIMEOUT, Connection, head, package
from tests.servers.load import Load, audit, mixed_jobs, send
from tests.servers.running import Installation, Server, wait_until

CLIENTS = 8


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_shutdown_under_load(installation: Installation, name: str) -> None:
    """On SIGTERM a server answers each request it has started, waits for an incomplete one only
    until its timeout, and exits with code 0."""
    database = installation.database
    if name == "gunicorn":
        server = installation.gunicorn("--graceful-timeout", "3")
    else:
        installation.configure("stop_timeout", "3 seconds")
        server = installation.baseplate_serve()
    with server, socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as stuck:
        stuck.sendall(head("POST /packages HTTP/1.1", "Content-Length: 2"))
        with Load(leave_when_closed=True) as load:
            for _ in range(CLIENTS):
                load.add_client(server.port, (send(package()) for _ in count()))
            load.wait_for(200)
            server.signal(signal.SIGTERM)
            assert server.wait(3 + 4) == 0
    audit(load.exchanges, database)
    stored = {package_id for (package_id,) in database.rows("SELECT package_id FROM packages")}
    for exchange in load.exchanges:
        if not exchange.is_successful:
            assert exchange.answer is None
            assert exchange.job.body["package_id"] not in stored


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_shutdown_in_steps(installation: Installation, name: str) -> None:
    """On SIGTERM a server first reports that it isn't ready, then stops accepting connections; a
    partly received request is completed and answered, and an idle client delays nothing."""
    installation.configure("drain_time", "2 seconds")
    installation.environment["GALAXY_EXPRESS_DRAIN_SECONDS"] = "2"
    body = b"{}"
    with (
        installation.server(name) as server,
        Connection(server.port) as idle,
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client,
    ):
        idle.request("GET", "/statistics")
        client.sendall(head("POST /packages HTTP/1.1", f"Content-Length: {len(body)}"))
        server.signal(signal.SIGTERM)
        wait_until(lambda: _says_unready(server), "not ready any more")
        wait_until(lambda: not server.is_healthy("liveness"), "no more connections")
        client.sendall(body)
        assert client.recv(12) == b"HTTP/1.1 422"
        assert server.wait(10) == 0


def test_shutdown_during_startup(installation: Installation) -> None:
    """On SIGTERM gunicorn soon exits with code 0, even while its workers are starting."""
    server = installation.gunicorn()
    server.start()
    try:
        wait_until(lambda: server.log.count("Booting worker") == 2, "workers are starting")
        time.sleep(random.uniform(0.2, 0.6))
        server.signal(signal.SIGTERM)
        assert server.wait(20) == 0  # the graceful timeout is 30
    finally:
        if server.is_running():
            server.kill()


def test_log_files_are_reopened(installation: Installation) -> None:
    """On SIGUSR1 gunicorn reopens its log files, and the service keeps running."""
    with installation.gunicorn() as server:
        server.signal(signal.SIGUSR1)
        assert server.request("GET", "/health").json is True


@pytest.mark.parametrize("signal_", [signal.SIGQUIT, signal.SIGINT])
def test_immediate_shutdown(installation: Installation, signal_: signal.Signals) -> None:
    """SIGQUIT and SIGINT end the server without waiting for load balancers."""
    installation.environment["GALAXY_EXPRESS_DRAIN_SECONDS"] = "20"
    server = installation.gunicorn()
    with server:
        server.request("GET", "/health")
        start = time.monotonic()
        server.signal(signal_)
        assert server.wait(15) == 0
        assert time.monotonic() - start < 15


def test_reload_under_load(installation: Installation) -> None:
    """On SIGHUP gunicorn replaces its workers; clients only see connections close after an
    answer."""
    with installation.gunicorn() as server:
        before = server.workers
        with Load() as load:
            for client in range(CLIENTS):
                load.add_client(server.port, mixed_jobs(client))
            load.wait_for(200)
            server.signal(signal.SIGHUP)
            wait_until(
                lambda: len(server.workers) == 2 and not server.workers & before, "new workers"
            )
            load.wait_for(200)
        audit(load.exchanges, installation.database, server)
    assert all(exchange.is_successful for exchange in load.exchanges)


# Python would reuse the bytecode of an earlier version of gunicorn.conf.py if both had the same
# size and were written in the same second, so each version has a different size.
INVALID_RELOADS = [
    ("production.ini", "[shell]", "desk.timeuot = 5 seconds", "desk.timeuot: no such setting"),
    ("production.ini", "", "", "No such file or directory"),
    ("gunicorn.conf.py", "workers = ", "workers = = ", "SyntaxError: invalid syntax"),
    ("gunicorn.conf.py", "keepalive = 75", "keepalvie = 5", "gunicorn has no setting keepalvie"),
    ("gunicorn.conf.py", "keepalive = 75", "keepalive = 000", "gunicorn's keepalive must be at"),
    ("gunicorn.conf.py", "environment.bind()", "'localhost'", "gunicorn's bind: 'localhost'"),
    ("gunicorn.conf.py", "environment.bind()", "'192.0.2.1:80'", "Can't listen on 192.0.2.1"),
    ("gunicorn.conf.py", "environment.bind()", "[environment.bind(), '[::1]:99']", "stays in it"),
    ("gunicorn.conf.py", "keepalive = 75", "pidfile = 'no/pid'", "pidfile no/pid can't be written"),
    ("gunicorn.conf.py", "keepalive = 75", "pidfile = 'a.pid'", "pidfile a.pid belongs to process"),
]


def test_invalid_reloads_are_rejected(installation: Installation) -> None:
    """If the new configuration is invalid, SIGHUP changes nothing but the log."""
    rejected = "The reload was rejected, and nothing has changed: "
    (installation.folder / "a.pid").write_text(str(os.getpid()))
    with installation.gunicorn() as server:
        before = server.workers
        for number, (name, old, new, message) in enumerate(INVALID_RELOADS, start=1):
            path = installation.folder / "configs" / name
            valid = path.read_text()
            path.write_text(valid.replace(old, new, 1))
            if not new:
                path.unlink()
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.log.count(rejected) == number, "the reload is rejected")  # noqa: B023
            assert message in server.log.rpartition(rejected)[2]
            assert server.workers == before
            assert server.request("POST", "/packages", package()).status == 201
            path.write_text(valid)

        server.signal(signal.SIGHUP)
        wait_until(lambda: not server.workers & before, "a valid reload is performed")
        assert server.is_healthy("readiness")
    assert "Traceback" not in server.log


def test_worker_that_cannot_be_replaced(installation: Installation) -> None:
    """If a worker ends while the configuration is invalid, the others keep serving, and it is
    replaced once the configuration is valid again."""
    path = installation.folder / "configs" / "production.ini"
    valid = path.read_text()
    with installation.gunicorn() as server:
        wait_until(lambda: server.log.count("Galaxy Express on") == 2, "both workers start")
        path.write_text(valid.replace("[shell]", "desk.tiemout = 1 second\n[shell]"))
        os.kill(min(server.workers), signal.SIGKILL)
        failed = "A worker that has ended can't be replaced until this is fixed: desk.tiemout"
        wait_until(lambda: failed in server.log, "it can't be replaced")
        assert server.request("POST", "/packages", package()).status == 201

        path.write_text(valid)
        wait_until(lambda: server.log.count("Galaxy Express on") == 3, "it is replaced")
    assert "Traceback" not in server.log


def test_instance_stays_ready_during_a_reload(installation: Installation) -> None:
    """On SIGHUP, with the default drain time, no readiness probe fails."""
    del installation.environment["GALAXY_EXPRESS_DRAIN_SECONDS"]
    with installation.gunicorn() as server:
        probes = 0
        while probes < 2:  # on a busy machine a reload may take no longer than a probe
            before = server.workers
            server.signal(signal.SIGHUP)
            while server.workers & before or len(server.workers) != 2:
                assert server.is_healthy("readiness")
                probes += 1
            assert server.is_healthy("readiness")


def test_instance_stays_ready_with_fewer_workers(installation: Installation) -> None:
    """On SIGTTOU, with the default drain time, no readiness probe fails."""
    del installation.environment["GALAXY_EXPRESS_DRAIN_SECONDS"]
    with installation.gunicorn(workers=3) as server:
        wait_until(lambda: server.log.count("Galaxy Express on") == 3, "all workers start")
        server.signal(signal.SIGTTOU)

        def has_stopped() -> bool:
            assert server.is_healthy("readiness")
            return len(server.workers) == 2

        wait_until(has_stopped, "a worker stops")


def test_reload_by_a_signal_to_all_processes(installation: Installation) -> None:
    """SIGHUP aborts no request if it is sent to the workers, too."""
    with (
        installation.gunicorn() as server,
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client,
    ):
        wait_until(lambda: server.log.count("Galaxy Express on") == 2, "both workers start")
        fields = "Content-Length: 2", "Expect: 100-continue"
        client.sendall(head("POST /packages HTTP/1.1", *fields))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        os.killpg(server.pid, signal.SIGHUP)
        wait_until(lambda: server.log.count("Galaxy Express on") > 2, "a worker is added")
        client.sendall(b"{}")
        assert client.recv(12) == b"HTTP/1.1 422"


def test_workers_are_replaced_when_a_file_changes(installation: Installation) -> None:
    """With gunicorn's ``reload``, the workers are replaced when a file changes."""
    watched = installation.folder / "watched"
    watched.touch()
    options = "--reload", "--reload-engine=poll", f"--reload-extra-file={watched}"
    with installation.gunicorn(*options, workers=1) as server:
        before = server.workers
        wait_until(lambda: _is_changed(watched, server), "the change is noticed")
        wait_until(lambda: not server.workers & before, "the worker is replaced", within=20)
        server.wait_until_alive()


def _is_changed(watched: Path, server: Server) -> bool:
    # A change isn't noticed before the worker watches the file.
    os.utime(watched, (time.time(), time.time()))
    return "Worker reloading" in server.log


def test_workers_are_replaced_after_max_requests(installation: Installation) -> None:
    """Workers that reach gunicorn's max_requests are replaced, and every request is answered."""
    with installation.gunicorn("--max-requests", "20") as server:
        before = server.workers
        sent = count()

        def are_all_replaced() -> bool:
            answer = server.request("POST", "/packages", package(package_id=str(next(sent))))
            assert answer.status == 201
            return not server.workers & before

        wait_until(are_all_replaced, "all workers have been replaced")
        assert server.is_healthy("readiness")


def _says_unready(server: Server) -> bool:
    answer = server.request("GET", "/health?type=readiness")
    return answer.status == 503 and answer.is_problem
