"""The demo, run against a real server."""

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
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.backends import SQLiteBackend
from tests.servers.running import ROOT, WAIT_SECONDS, Installation, Server, free_port, wait_until

MODULE = "galaxy_express.ops.demo"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The service with an additional package type, and a database shared by these tests."""
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
def running(installation: Installation) -> Iterator[Server]:
    """A running server."""
    with installation.gunicorn(workers=1) as server:
        yield server


def demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the demo as ``python -m`` does."""
    monkeypatch.setattr(sys, "argv", [MODULE, *arguments])
    runpy.run_module(MODULE, run_name="__main__")


def url(port: int) -> str:
    """The URL of a service on this machine."""
    return f"http://127.0.0.1:{port}"


def test_demo_fills_the_service(
    running: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo submits at least the given number of packages, of all types and with all outcomes,
    and prints totals, but no progress without a terminal."""
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
    assert sum(changes.values()) < int(submitted.replace(",", "")), "some were retries"
    figures = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+$", printed, re.M)]
    assert figures[-2:] == [after["packages_dropped"], after["requests_rejected"]]


def test_demo_prints_what_the_feeds_show(
    running: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo prints how many decisions were made during its run."""
    for _ in range(2):
        before = running.request("GET", "/statistics").json
        demo(monkeypatch, url(running.port), "--packages", "300", "--seconds", "1")
        after = running.request("GET", "/statistics").json
        delivered, dropped = (
            after[f"packages_{status}"] - before[f"packages_{status}"]
            for status in ("delivered", "dropped")
        )
        assert (
            f"show {delivered + dropped:,} new decisions; {dropped:,} packages were dropped."
            in capsys.readouterr().out
        )


def test_demo_uses_the_present_time(
    running: Server, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest timestamps of the demo are recent, and not in the future."""
    demo(monkeypatch, url(running.port), "--packages", "100", "--seconds", "1")
    now = datetime.now(UTC)
    newest = [
        installation.database.rows(f"SELECT max(timestamp) FROM {table}")[0][0]  # noqa: S608
        for table in ("packages", "preferences")
    ]
    for microseconds in filter(None, newest):
        latest = datetime.fromtimestamp(microseconds / 1e6, UTC)
        assert now - timedelta(days=2) < latest <= now


def test_demo_does_not_use_the_recipients_of_the_readme(
    running: Server, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo doesn't use the recipients of the README's examples."""
    demo(monkeypatch, url(running.port), "--packages", "100", "--seconds", "1")
    readme = (ROOT / "README.md").read_text()
    examples = set(re.findall(r"\"recipient_id\": \"(\w+)\"|/recipients/(\w+)/", readme))
    names = {name for pair in examples for name in pair if name}
    assert "leela" in names
    stored = installation.database.rows(
        "SELECT recipient_id FROM packages UNION SELECT recipient_id FROM preferences"
    )
    assert names.isdisjoint(recipient for (recipient,) in stored)


def test_demo_shows_its_progress(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the demo shows how many packages it has submitted."""
    terminal, standard_error = pty.openpty()
    with open(standard_error, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        demo(monkeypatch, url(running.port), "--packages", "10", "--seconds", "1")
        os.set_blocking(terminal, False)
        drawn = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert re.fullmatch(r"(\r\d+ of 10 packages)+\r\n", drawn)


def test_demo_waits_while_the_service_is_unavailable(
    running: Server, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request answered with 503 is repeated until the database is back."""
    with ExitStack() as outage:
        outage.enter_context(installation.database.unavailable())

        def end_outage() -> None:
            wait_until(lambda: "is unavailable" in running.log, "a request meets the outage")
            outage.close()

        rescue = threading.Thread(target=end_outage)
        rescue.start()
        demo(monkeypatch, url(running.port), "--packages", "10", "--seconds", "1")
        rescue.join()


def test_interrupt_ends_the_demo_with_the_totals(running: Server) -> None:
    """Ctrl-C ends the demo early, with the totals."""
    before = running.request("GET", "/statistics").json
    command = [sys.executable, "-m", MODULE, url(running.port), "--seconds", "600"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # Background processes ignore SIGINT, and the demo would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_until(
            lambda: running.request("GET", "/statistics").json != before,
            "the demo has sent something",
        )
        process.send_signal(signal.SIGINT)
        try:
            printed, _ = process.communicate(timeout=WAIT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0
    assert printed.startswith("Submitted ")


@contextmanager
def other_service(status: int, body: bytes) -> Iterator[int]:
    """A server that gives every request the same answer; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (503, b"{}", "The service at {url} remains unavailable; see its log."),
        (200, b"<html>", "The service at {url} is not Galaxy Express."),
        (200, b"7", "The service at {url} is not Galaxy Express."),
        (404, b'{"detail": "Not Found"}', "The service at {url} is not Galaxy Express."),
    ],
)
def test_unusable_service(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, complaint: str
) -> None:
    """If the service is unavailable or isn't ours, the demo ends with a one-line message."""
    with other_service(status, body) as port, pytest.raises(SystemExit) as end:
        demo(monkeypatch, url(port))
    assert end.value.code == complaint.format(url=url(port))


def test_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing listens, a one-line message explains how to start the service."""
    port = free_port()
    with pytest.raises(SystemExit) as end:
        demo(monkeypatch, url(port))
    assert end.value.code == f"No service responds at {url(port)}; start it with: make run"


def test_import_does_not_run_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """Importing the module doesn't run the demo."""
    importlib.import_module(MODULE)
    del sys.modules[MODULE]  # runpy warns about modules that are imported already
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["localhost:9090"], "localhost:9090 is not a URL like http://localhost:9090"),
        (["http://localhost:x"], "http://localhost:x is not a URL like http://localhost:9090"),
        (["http://"], "http:// is not a URL like http://localhost:9090"),
        (["http://localhost", "--packages", "0"], "0 is not a positive integer"),
        (["http://localhost", "--seconds", "soon"], "soon is not a positive integer"),
    ],
)
def test_invalid_command_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    """An invalid command line ends with a one-line message."""
    with pytest.raises(SystemExit) as end:
        demo(monkeypatch, *arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(complaint)
