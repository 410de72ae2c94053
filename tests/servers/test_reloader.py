"""The monitor of ``make run``: it restarts the server, and never leaves it behind."""

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers.running import (
    ROOT,
    WAIT_SECONDS,
    Installation,
    Server,
    free_port,
    is_listening,
    wait_until,
)


def monitored(installation: Installation) -> Server:
    """The monitor with its server, not started."""
    port = free_port()
    command = [sys.executable, "-m", "galaxy_express.serving.reloader", "configs/development.ini"]
    environment = installation.environment | {
        "GALAXY_EXPRESS_BIND": f"127.0.0.1:{port}",
        "PYTHONUNBUFFERED": "1",  # the monitor prints that it waits
    }
    return Server(command, installation.folder, port, environment)


def change(monitor: Server, path: Path) -> None:
    """Save a file until the server is alive: the monitor misses what is saved in the first second
    in which it waits."""
    for _ in range(10):
        path.touch()
        with suppress(AssertionError):
            wait_until(lambda: monitor.is_healthy("liveness"), "the server is alive", within=6)
            return
    monitor.wait_until_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_ends_with_the_monitor(installation: Installation, number: signal.Signals) -> None:
    """A signal that only the monitor gets, as from the stop button of an IDE, ends the server
    gracefully."""
    with monitored(installation) as monitor:
        monitor.signal(number)
        assert monitor.wait(8) == 0
        assert not is_listening(monitor.port)
    assert "Exiting" in monitor.log


@pytest.mark.parametrize("is_stuck", [False, True], ids=["working server", "stuck server"])
def test_killed_monitor(installation: Installation, is_stuck: bool) -> None:
    """If the monitor is killed, the server ends, even one that doesn't react to signals."""
    with monitored(installation) as monitor:
        (server,) = _servers(monitor)
        if is_stuck:
            os.kill(server, signal.SIGSTOP)
        monitor.signal(signal.SIGKILL)
        monitor.wait()
        wait_until(lambda: not _servers(monitor), "the server has ended", within=10)


def test_killed_server(installation: Installation) -> None:
    """If a process below the monitor is killed, nothing listens until the code changes."""
    with monitored(installation) as monitor:
        for worker in monitor.workers:
            os.kill(worker, signal.SIGKILL)
        _wait_until_waiting(monitor)
        change(monitor, installation.folder / "configs" / "development.ini")


def test_closed_terminal(installation: Installation) -> None:
    """When its terminal is closed, the monitor ends with its server."""
    monitor = monitored(installation)
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "galaxy_express.serving.reloader", "configs/development.ini"],
        cwd=monitor.folder,
        env=monitor.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        wait_until(lambda: monitor.is_healthy("liveness"), "the server is alive")
        os.close(terminal)
        process.wait(WAIT_SECONDS)
        assert not is_listening(monitor.port)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_hangup_restarts_the_server(installation: Installation) -> None:
    """SIGHUP to the monitor restarts the server; afterwards there is one."""
    with monitored(installation) as monitor:
        before = _servers(monitor)
        monitor.signal(signal.SIGHUP)
        wait_until(lambda: bool(_servers(monitor) - before), "another server is started")
        monitor.wait_until_alive()
        assert len(_servers(monitor)) == 1


def test_broken_code_is_fixed(installation: Installation) -> None:
    """A server that can't start with broken code starts when the code is fixed."""
    shutil.copytree(ROOT / "galaxy_express", installation.folder / "galaxy_express")
    installation.environment["PYTHONPATH"] = str(installation.folder)
    module = installation.folder / "galaxy_express" / "web" / "views.py"
    code = module.read_text()
    with monitored(installation) as monitor:
        module.write_text("def broken(:\n")
        # A change that is saved within a second of a start isn't always noticed.
        monitor.signal(signal.SIGHUP)
        _wait_until_waiting(monitor)
        assert "SyntaxError" in monitor.log
        module.write_text(code)
        change(monitor, module)


@pytest.mark.parametrize("bind", ["[::1]:9090", "unix:socket"])
def test_unsupported_address(installation: Installation, bind: str) -> None:
    """An address that only gunicorn supports is rejected with a one-line message."""
    monitor = monitored(installation)
    monitor.environment["GALAXY_EXPRESS_BIND"] = bind
    monitor.start()
    assert monitor.wait() == 1
    assert monitor.log.startswith(f"Baseplate's server can't listen on {bind}: ")
    assert monitor.log.count("\n") == 1


def _wait_until_waiting(monitor: Server) -> None:
    wait_until(lambda: "Waiting for a file to change" in monitor.log, "the monitor waits")
    assert not is_listening(monitor.port)


def _servers(monitor: Server) -> set[int]:
    """The processes of the servers, which have the address as an argument."""
    address = f"127.0.0.1:{monitor.port}".encode()
    return {
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if address in _read(path).split(b"\0")
    }


def _read(path: Path) -> bytes:
    with suppress(OSError):  # the process may have ended
        return path.read_bytes()
    return b""
