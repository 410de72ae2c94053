"""Replacing a running gunicorn master with a new one (SIGUSR2)."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR2

import pytest

from tests.servers.http_client import package
from tests.servers.running import Installation, Server, free_port, is_listening, wait_until
from tests.servers.test_metrics import Scrape, mapped_folders, metrics_port

# A worker logs this when it has started.
STARTED = "Galaxy Express on "


@pytest.fixture
def measured(installation: Installation) -> Installation:
    """The service with metrics, on a free port and in a folder in memory."""
    installation.configure("metrics.enabled", "true")
    installation.environment["GALAXY_EXPRESS_METRICS_BIND"] = str(free_port())
    return installation


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server; on exit, kill all of its masters."""
    with server:
        group = server.pid
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(group, SIGKILL)


def children(pid: int) -> set[int]:
    """The ids of a process's children; empty if there is no such process."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return set()
    return {int(child) for child in listed.split()}


def replace(server: Server, master: int) -> int:
    """Start a new master, wait for its worker, and return the process id of the master."""
    started = server.log.count(STARTED)
    os.kill(master, SIGUSR2)
    wait_until(lambda: server.log.count(STARTED) > started, "the new worker has started")
    (successor,) = [child for child in children(master) if children(child)]
    return successor


def stop(master: int) -> None:
    """Stop a master and its workers."""
    os.kill(master, SIGTERM)
    wait_until(lambda: not is_running(master), f"the master {master} has stopped")


def is_running(pid: int) -> bool:
    """Whether a process is running."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def is_promoted(server: Server, master: int) -> bool:
    """Whether a new master has detected that the old one has stopped."""
    lines = server.log.splitlines()
    return any("Master has been promoted" in line and f": {master}," in line for line in lines)


def send(server: Server, number: int) -> None:
    """Send packages, each on a new connection."""
    for _ in range(number):
        assert server.request("POST", "/packages", package()).status == 201


def counted(installation: Installation) -> set[float]:
    """The numbers of sends in several scrapes: one element if all scrapes agree."""
    return {Scrape(installation).total("galaxy_express_sends_total") for _ in range(10)}


def test_metrics_continue_in_a_new_master(measured: Installation) -> None:
    """While two masters run, the sums of their metrics are exported; a new master continues the
    counts of the old one, and the last one removes the folder."""
    with running(measured.gunicorn(workers=1)) as server:
        (folder,) = mapped_folders(server)
        master = server.pid
        send(server, 1)
        for sent in (21, 41):
            successor = replace(server, master)
            send(server, 19)
            assert counted(measured) == {sent - 1}
            stop(master)
            send(server, 1)
            assert counted(measured) == {sent}
            wait_until(partial(is_promoted, server, successor), "it can be replaced, too")
            master = successor
        stop(master)
        assert not folder.exists()
        assert not is_listening(metrics_port(measured))


def test_metrics_continue_in_the_old_master(measured: Installation) -> None:
    """If the new master is stopped instead, the old one keeps the metrics of both."""
    with running(measured.gunicorn(workers=1)) as server:
        successor = replace(server, server.pid)
        send(server, 20)
        stop(successor)
        send(server, 1)
        assert counted(measured) == {21}


def test_new_master_without_inherited_metrics(measured: Installation) -> None:
    """If the old master has no metrics and the port is in use, the new one runs without metrics and
    logs it."""
    measured.configure("metrics.enabled", "false")
    port = metrics_port(measured)
    with running(measured.gunicorn(workers=1)) as server, socket.create_server(("127.0.0.1", port)):
        measured.configure("metrics.enabled", "true")
        replace(server, server.pid)
        stop(server.pid)
        send(server, 1)
        assert f"Metrics can't be exported on port {port}" in server.log
        assert "This server has no metrics." in server.log
