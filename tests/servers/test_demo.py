"""The demonstration, on a real server."""

import importlib
import os
import pty
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.backends import SQLiteBackend
from tests.servers.running import PATIENCE, ROOT, Installation, Server, free_port, wait_until

MODULE = "galaxy_express.ops.demo"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The service, with one type of package more, and a database that serves all tests here."""
    folder = tmp_path_factory.mktemp("demo")
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    installation.create_schema()
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "galaxy_express", checkout / "galaxy_express")
    with open(checkout / "galaxy_express" / "package_types.py", "a") as module:
        module.write(
            'PACKAGE_TYPES = PackageTypeRegistry([*PACKAGE_TYPES, PackageType("freight")])\n'
        )
    installation.environment["PYTHONPATH"] = str(checkout)
    return installation


@pytest.fixture(scope="module")
def running(shop: Installation) -> Iterator[Server]:
    """The service, running."""
    with shop.gunicorn(workers=1) as server:
        yield server


def demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the demonstration as ``python -m`` does."""
    monkeypatch.setattr(sys, "argv", [MODULE, *arguments])
    runpy.run_module(MODULE, run_name="__main__")


def url(port: int) -> str:
    """The URL of a service on this machine."""
    return f"http://127.0.0.1:{port}"


def test_it_fills_the_service(
    running: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It sends at least as many packages as it is told, of all types that there are; some are
    delivered, some dropped because recipients changed their minds, some rejected. It ends with
    the totals, and draws nothing where no terminal is."""
    before = running.request("GET", "/statistics").json
    demo(monkeypatch, url(running.port), "--packages", "1000", "--seconds", "1")
    after = running.request("GET", "/statistics").json
    changes = {name: after[name] - before[name] for name in after if name != "by_type"}
    assert all(change > 0 for change in changes.values())
    delivered = {name: totals["delivered"] > 0 for name, totals in after["by_type"].items()}
    assert delivered == {"freight": True, "marketing": True, "personal": True}

    printed, progress = capsys.readouterr()
    assert progress == ""
    (submitted,) = re.findall(r"^Submitted ([\d,]+) packages\.$", printed, re.MULTILINE)
    assert int(submitted.replace(",", "")) >= 1000
    assert sum(changes.values()) < 1000, "some were retries"
    figures = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+$", printed, re.M)]
    assert figures[-2:] == [after["packages_dropped"], after["requests_rejected"]]


def test_it_draws_a_progress_bar(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal one sees how far it is."""
    terminal, standard_error = pty.openpty()
    os.set_blocking(terminal, False)
    with open(standard_error, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        demo(monkeypatch, url(running.port), "--packages", "10", "--seconds", "1")
        drawn = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert re.fullmatch(r"(\r\[#*\.*\] \d+ of 10 packages)+\r\n", drawn)
    assert drawn.endswith(f"\r[{'#' * 40}] 10 of 10 packages\r\n")


def test_it_waits_while_the_service_is_unavailable(
    running: Server, shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered 503 it sends again after a while, until it is answered otherwise."""
    with ExitStack() as outage:
        outage.enter_context(shop.database.away())

        def end_outage() -> None:
            wait_until(lambda: "is unavailable" in running.log, "a request meets the fault")
            outage.close()

        rescue = threading.Thread(target=end_outage)
        rescue.start()
        demo(monkeypatch, url(running.port), "--packages", "10", "--seconds", "1")
        rescue.join()


def test_an_interrupt_ends_it_with_the_totals(running: Server) -> None:
    """Whoever has seen enough presses Ctrl-C, and gets the totals so far."""
    before = running.request("GET", "/statistics").json
    command = [sys.executable, "-m", MODULE, url(running.port), "--seconds", "600"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until(
        lambda: running.request("GET", "/statistics").json != before, "it has sent something"
    )
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert printed.startswith("Submitted ")


@contextmanager
def another_service(status: int, body: bytes) -> Iterator[int]:
    """Something that answers every request in the same way, and the port of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server calls it
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (503, b"{}", "The service at {url} stays unavailable; its log says why."),
        (200, b"<html>", "What answers at {url} is not Galaxy Express."),
        (404, b'{"detail": "Not Found"}', "What answers at {url} is not Galaxy Express."),
    ],
)
def test_a_service_that_will_not_do(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, complaint: str
) -> None:
    """If the service stays unavailable, or is another one, it ends with a sentence."""
    with another_service(status, body) as port, pytest.raises(SystemExit) as end:
        demo(monkeypatch, url(port))
    assert end.value.code == complaint.format(url=url(port))


def test_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is none it says so in a sentence, and how to start one."""
    port = free_port()
    with pytest.raises(SystemExit) as end:
        demo(monkeypatch, url(port))
    assert re.fullmatch(
        rf"Nothing answers at {url(port)} \(.*refused\); start it with: make run",
        str(end.value.code),
    )


def test_to_import_it_is_not_to_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    """It begins when it is run as a program, and not before."""
    importlib.import_module(MODULE)
    del sys.modules[MODULE]  # or the next to run it would be told that it is there already
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["localhost:9090"], "localhost:9090 is not a URL like http://localhost:9090"),
        (["http://localhost:x"], "Port could not be cast to integer value as 'x'"),
        (["http://localhost", "--packages", "0"], "0 is not a positive number"),
        (["http://localhost", "--seconds", "soon"], "soon is not a positive number"),
    ],
)
def test_a_wrong_command_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    """What is wrong with the command line is said in a sentence."""
    with pytest.raises(SystemExit) as end:
        demo(monkeypatch, *arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(complaint)
