"""Servers on an SQLite file: several workers, locks of other programs, missing or changed files."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from tests.backends import SQLiteBackend
from tests.servers.http_client import package
from tests.servers.load import Load, audit, mixed_jobs
from tests.servers.running import Installation, wait_until


def test_workers_share_a_file(installation: Installation) -> None:
    """Under heavy load, two workers on one file answer every request correctly."""
    with installation.gunicorn() as server:
        with Load() as load:
            for client in range(16):
                load.add_client(server.port, islice(mixed_jobs(client), 80))
            load.wait()
        assert all(exchange.is_successful for exchange in load.exchanges)
        audit(load.exchanges, installation.database, server)
        assert "database is locked" not in server.log


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_locked_file_does_not_block_reads(installation: Installation, name: str) -> None:
    """While a write waits for another process's lock on the file, other requests are served."""
    installation.configure("database.lock_timeout", "60 seconds")
    installation.configure("desk.timeout", "60 seconds")
    installation.configure("server_timeout.default", "60 seconds")
    server = installation.server(name)
    with server, ThreadPoolExecutor() as threads:
        with installation.database.locked():
            written = threads.submit(server.request, "POST", "/packages", package())
            # SQLite doesn't show when the write waits, so check for a while.
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                assert server.is_healthy("liveness")
                assert server.request("GET", "/statistics").status == 200
            assert not written.done()
        assert written.result().status == 201


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_log_is_checkpointed(installation: Installation, name: str) -> None:
    """A server checkpoints the write-ahead log before it grows long."""
    with installation.server(name) as server:
        sent = package(package_id="soon-moved")
        assert server.request("POST", "/packages", sent).status == 201
        file = installation.folder / "galaxy_express.db"

        def is_moved() -> bool:
            # A worker that starts up may read from the log, and block the first checkpoint. The
            # next commit starts another.
            assert server.request("POST", "/packages", package()).status == 201
            return b"soon-moved" in file.read_bytes()

        wait_until(is_moved, "a checkpoint")


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_stopped_server_leaves_one_file(installation: Installation, name: str) -> None:
    """A stopped server closes its connections, so that SQLite checkpoints and removes the
    write-ahead log."""
    with installation.server(name) as server:
        assert server.request("POST", "/packages", package()).status == 201
        assert server.terminate() == 0
    assert not list(installation.folder.glob("*.db-wal"))


CHANGES = {
    "overwritten": (["cp", "backup.db", "galaxy_express.db"], "move all files .* restore a backup"),
    "log deleted": (["rm", "galaxy_express.db-wal"], "and run the audit"),
    "index deleted": (["rm", "galaxy_express.db-shm"], "and run the audit"),
}


@pytest.mark.parametrize(("change", "cure"), CHANGES.values(), ids=CHANGES)
def test_changed_files_stop_all_workers(
    installation: Installation, change: list[str], cure: str
) -> None:
    """If the files of the database are overwritten or deleted while the service runs, no worker
    answers a send with success, readiness fails, and the log says what to do."""
    with installation.gunicorn() as server:
        for _ in range(5):
            assert server.request("POST", "/packages", package()).status == 201
        back_up = "configs/development.ini", "galaxy_express.ops.backup:back_up", "backup.db"
        installation.run("baseplate-script", *back_up)
        for _ in range(5):
            assert server.request("POST", "/packages", package()).status == 201
        subprocess.run(change, cwd=installation.folder, check=True)
        assert {server.request("POST", "/packages", package()).status for _ in range(20)} == {503}
        health = server.request("GET", "/health")
        assert health.status == 503
        assert "its files were changed" in health.json["detail"]
        assert re.search(f"stop the service.*{cure}", server.log)


@pytest.mark.parametrize(
    ("name", "is_there"),
    [("baseplate-serve", True), ("gunicorn", False)],
    ids=["no tables", "no database"],
)
def test_missing_schema(tmp_path: Path, name: str, is_there: bool) -> None:
    """Without tables the service starts, logs it, is alive but not ready, and becomes ready once
    they exist."""
    database = SQLiteBackend(tmp_path / "galaxy_express.db")
    installation = Installation(tmp_path, database)
    if is_there:
        database.rows("VACUUM")
    with installation.server(name) as server:
        error = (
            "lacks the tables counters, packages, preference_updates, preferences"
            if is_there
            else "is unavailable"
        )
        assert re.search(rf"The database sqlite:///\S*galaxy_express.db {error}", server.log)
        assert not server.is_healthy("readiness")
        answer = server.request("GET", "/statistics")
        assert (answer.status, answer.is_problem) == (503, True)
        assert database.path.exists() == is_there

        installation.create_schema()
        wait_until(lambda: server.is_healthy("readiness"), "the service is ready")
        assert server.request("GET", "/statistics").status == 200
