"""The consumers in docs/feed.md, killed while they follow the feed."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count, cycle
from pathlib import Path

import pytest

from tests.backends import Backend
from tests.servers.http_client import package
from tests.servers.load import Job, Load, numbered_package, send_batch
from tests.servers.load import send as send_one
from tests.servers.running import ROOT, WAIT_SECONDS, Installation, Server, wait_until

TEXT = (ROOT / "docs" / "feed.md").read_text()

# Runs a consumer and kills it before the n-th line that it executes.
KILLED_AT = """
import os, signal, sys
left = int(sys.argv[1])
def trace(frame, event, argument):
    global left
    if frame.f_code.co_filename == "consumer":
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
code = compile(open(sys.argv[2]).read(), "consumer", "exec")
sys.settrace(trace)
exec(code)
"""


def consumer(language: str, server: Server) -> str:
    """The code of the consumer in a language, with the address of a server."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(code).replace("localhost:9090", f"127.0.0.1:{server.port}")


def send(server: Server, *package_ids: str) -> None:
    """Send packages in one batch."""
    body = [package(package_id=package_id) for package_id in package_ids]
    server.request("POST", "/packages/batch", body)


def test_killed_python_consumer(installation: Installation, tmp_path: Path) -> None:
    """The Python consumer delivers every package once, whichever line it is killed before."""
    sent: list[str] = []
    with installation.gunicorn() as server:
        path = tmp_path / "consumer.py"
        path.write_text(consumer("python", server).replace("sleep(1)", "sleep(0)"))
        for number in range(1, 61):  # a page with two packages takes twenty-five lines
            if number % 20 == 1:
                sent += [f"{number}-{place}" for place in range(2)]
                send(server, *sent[-2:])
            run = subprocess.run(
                [sys.executable, "-c", KILLED_AT, str(number), path.name],
                cwd=tmp_path,
                timeout=WAIT_SECONDS,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert (run.returncode, run.stderr) == (-signal.SIGKILL, "")
    with closing(sqlite3.connect(tmp_path / "consumer.db")) as store:
        delivered = [
            row[0] for row in store.execute("SELECT package_id FROM deliveries ORDER BY rowid")
        ]
    assert sorted(delivered) == sorted(sent)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl isn't installed")
def test_killed_curl_consumer(installation: Installation, tmp_path: Path) -> None:
    """The curl consumer stores every decision once, whenever it is killed."""
    sent: list[str] = []
    with installation.gunicorn() as server:
        for number in range(8):
            sent += [f"{number}-{place}" for place in range(2)]
            send(server, *sent[-2:])
            with subprocess.Popen(
                ["bash", "-c", consumer("bash", server)], cwd=tmp_path, start_new_session=True
            ) as run:
                if number < 7:
                    time.sleep(0.02 * number)  # killed at an arbitrary point
                else:
                    _wait_for(tmp_path, len(sent))
                run.kill()
    assert _stored(tmp_path) == sorted(sent)


def _stored(folder: Path) -> list[str]:
    pages = [path.read_text() for path in folder.glob("pages/*.json")]
    return sorted(name for page in pages for name in re.findall('"package_id":"([^"]*)"', page))


def _wait_for(folder: Path, number: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while len(_stored(folder)) < number:
        assert time.monotonic() < deadline, "the consumer didn't store all decisions"
        time.sleep(0.05)


class Follower:
    """The Python consumer. Each time it starts, it follows the next instance.

    :param folder: the folder for its database.
    """

    def __init__(self, folder: Path, *instances: Server) -> None:
        folder.mkdir()
        self._folder = folder
        self._instances = cycle(instances)
        self._process: subprocess.Popen[bytes] | None = None
        self._seen_before = 0

    def __enter__(self) -> "Follower":
        self.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ensure_running(self) -> None:
        """Start the consumer unless it is running. It exits when its instance is killed."""
        if self._process and self._process.poll() is None:
            return
        self._seen_before = len(self.seen)
        code = consumer("python", next(self._instances)).replace("sleep(1)", "sleep(0.01)")
        with open(self._folder / "errors", "a+") as errors:
            errors.seek(0)
            assert "IntegrityError" not in errors.read(), "it processed a package twice"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=self._folder, stderr=errors
            )

    def kill(self) -> None:
        """Kill the consumer at an arbitrary point."""
        if self._process:
            self._process.kill()
            self._process.wait(WAIT_SECONDS)

    @property
    def seen(self) -> list[str]:
        """The ids of the packages that it has processed, in order."""
        with closing(sqlite3.connect(self._folder / "consumer.db")) as store:
            if not store.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'deliveries'"
            ).fetchone():
                return []
            rows = store.execute("SELECT package_id FROM deliveries ORDER BY rowid")
            return [row[0] for row in rows]

    def has_seen_more(self) -> bool:
        """Return whether it has processed any packages since it started."""
        self.ensure_running()
        return len(self.seen) > self._seen_before

    def has_seen(self, package_id: str) -> bool:
        """Return whether it has processed a package."""
        self.ensure_running()
        return package_id in self.seen


def _sends(client: int) -> Iterator[Job]:
    # All clients send every other package, at about the same time.
    for number in count():
        yield send_one(numbered_package("single" if number % 2 else f"single-{client}", number))


def _batches(client: int) -> Iterator[Job]:
    for first in count(step=200):
        numbers = range(first, first + 200)
        names = "batch", f"batch-{client}"
        yield send_batch([numbered_package(name, number) for name in names for number in numbers])


def test_killed_instances_and_followers(backend: Backend, tmp_path: Path) -> None:
    """Two followers of two instances process every decision once and in the same order, although
    all four processes are killed."""
    installation = Installation(tmp_path, backend)
    installation.create_schema()
    one, two = instances = [installation.gunicorn(workers=1) for _ in range(2)]
    followers = Follower(tmp_path / "a", one, two), Follower(tmp_path / "b", two, one)
    with one, two, followers[0], followers[1], Load() as load:
        for client in range(8):
            jobs = _sends(client) if client < 4 else _batches(client)
            load.add_client(instances[client % 2].port, jobs)
        for instance in instances:
            for follower in followers:
                wait_until(follower.has_seen_more, "the follower has processed more")
                follower.kill()
                follower.ensure_running()
            instance.kill()
            load.wait_for(20)  # handled by the other instance
            instance.start()
            instance.wait_until_alive()
        load.wait_for(20)
        load.stop()
        assert any(exchange.answer is None for exchange in load.exchanges)
        # No recipient declined a type, so the consumers record all decisions.
        rows = backend.rows("SELECT package_id FROM packages ORDER BY sequence")
        decided = [package_id for (package_id,) in rows]
        for follower in followers:
            wait_until(partial(follower.has_seen, decided[-1]), "the last decision is processed")
            assert follower.seen == decided
