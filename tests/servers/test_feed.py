"""The consumers of docs/feed.md, killed while they follow the feed."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.running import PATIENCE, ROOT, Installation, Server
from tests.servers.speaking import package

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
    """The consumer in a language, pointed at a server."""
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
                timeout=PATIENCE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert (run.returncode, run.stderr) == (-signal.SIGKILL, "")
    with closing(sqlite3.connect(tmp_path / "consumer.db")) as store:
        delivered = [row[0] for row in store.execute("SELECT package_id FROM deliveries")]
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
    deadline = time.monotonic() + PATIENCE
    while len(_stored(folder)) < number:
        assert time.monotonic() < deadline, "the consumer stored nothing"
        time.sleep(0.05)
