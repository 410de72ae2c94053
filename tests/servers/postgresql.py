"""A PostgreSQL server of the test's own, to be stopped and started at will."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.running import PATIENCE, free_port


def find_binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``, or ``None`` if PostgreSQL isn't installed."""
    found = shutil.which("initdb")
    # Debian keeps them out of the way, in a folder for each version.
    folders = [Path(found).parent] if found else Path("/usr/lib/postgresql").glob("*/bin")
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Cluster:
    """A PostgreSQL server with databases in a folder of its own.

    :param binaries: see :py:func:`find_binaries`.
    :param folder: an empty folder, of the user who runs the server.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._data = folder / "data"
        self._port = free_port()
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync")

    @property
    def url(self) -> str:
        """The URL of a database of it."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        log = self._folder / "log"
        self._run("pg_ctl", "start", "--wait", f"--log={log}", f"--options={options}")

    def stop(self) -> None:
        """Stop it as a crash would: all connections break off, and nothing is tidied up."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def is_running(self) -> bool:
        """Whether it has been started and not been stopped."""
        return (self._data / "postmaster.pid").exists()

    def _run(self, command: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / command, f"--pgdata={self._data}", *arguments],
            cwd=self._folder,
            user=_user(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=PATIENCE,
        )


@contextmanager
def cluster(binaries: Path) -> Iterator[Cluster]:
    """A running server, which is gone when left."""
    # Not in a folder of pytest's, which nobody may enter but who runs the tests.
    with tempfile.TemporaryDirectory() as folder:
        user = _user()
        if user is not None:
            shutil.chown(folder, user)
        new = Cluster(binaries, Path(folder))
        new.start()
        try:
            yield new
        finally:
            if new.is_running():
                new.stop()


def _user() -> str | None:
    # PostgreSQL refuses to be run by root; its packages make this user for it.
    return "postgres" if os.geteuid() == 0 else None
