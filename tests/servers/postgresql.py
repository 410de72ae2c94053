"""A PostgreSQL server that tests can start and stop."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.network import ADDRESSES, LOCALHOST, Machine
from tests.servers.running import WAIT_SECONDS, free_port, wait_until


def find_binaries() -> Path | None:
    """Return the folder of ``initdb`` and ``pg_ctl``, or ``None`` if PostgreSQL can't run here."""
    user = unprivileged_user()
    if user is not None and user not in (known.pw_name for known in pwd.getpwall()):
        return None
    found = shutil.which("initdb")
    # Debian installs them outside the PATH, in a folder per version.
    folders = [Path(found).resolve().parent] if found else Path("/usr/lib/postgresql").glob("*/bin")
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def unprivileged_user() -> str | None:
    """Return the user that PostgreSQL's packages create, if this process is root's: as root, it
    refuses to run. Otherwise return ``None``, for the user of this process."""
    return "postgres" if os.geteuid() == 0 else None


def hand_over(folder: Path) -> None:
    """Give a folder to the user that runs PostgreSQL."""
    user = unprivileged_user()
    if user is not None:
        shutil.chown(folder, user)


class Cluster:
    """A PostgreSQL server with its data in a folder.

    :param binaries: see :py:func:`find_binaries`.
    :param folder: an empty folder, owned by the user that runs the server.
    :param primary: the primary to follow, for a standby.
    :param machine: where it runs.
    """

    def __init__(
        self,
        binaries: Path,
        folder: Path,
        primary: "Cluster | None" = None,
        machine: Machine = LOCALHOST,
    ) -> None:
        self._binaries = binaries
        self._folder = folder
        self._data = folder / "data"
        self.machine = machine
        self.port = free_port()
        if primary is None:
            self._run(
                "initdb",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            )
            with (self._data / "pg_hba.conf").open("a") as rules:
                for database in ("all", "replication"):
                    rules.write(f"host {database} all {ADDRESSES} trust\n")
        else:
            source = f"--dbname={primary.url}"
            self._run("pg_basebackup", source, "--write-recovery-conf", "--checkpoint=fast")

    @property
    def url(self) -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@{self.address}/postgres"

    @property
    def address(self) -> str:
        """Its address with its port."""
        return f"{self.machine.address}:{self.port}"

    @contextmanager
    def standby(self, machine: Machine = LOCALHOST) -> Iterator["Cluster"]:
        """A running standby of this server, which is removed at the end."""
        with tempfile.TemporaryDirectory(prefix="galaxy_express_standby_") as folder:
            hand_over(Path(folder))
            follower = Cluster(self._binaries, Path(folder), self, machine)
            follower.start()
            try:
                yield follower
            finally:
                if follower.is_running():
                    follower.stop()

    def promote(self) -> None:
        """Promote this standby to primary."""
        self._run("pg_ctl", "promote", "--wait")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        settings = {
            "port": self.port,
            "unix_socket_directories": self._folder,
            "listen_addresses": self.machine.address,
            "max_connections": 300,  # tests run in parallel, each with several pools
            "fsync": "off",  # data needn't survive a crash of the machine
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = self._folder / "log"
        self._run("pg_ctl", "start", "--wait", f"--log={log}", f"--options={options}")

    def stop(self) -> None:
        """Stop the server as a crash would, without a clean shutdown."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def demote(self) -> None:
        """Restart this primary as a standby, which can be promoted."""
        self._run("pg_ctl", "stop", "--wait", "--mode=fast")
        (self._data / "standby.signal").touch()
        self.start()

    def crash(self) -> None:
        """Kill the server, and wait until its processes have ended."""
        pid = int((self._data / "postmaster.pid").read_text().split("\n")[0])
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        processes = [Path("/proc", child) for task in tasks for child in task.read_text().split()]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(process.exists() for process in processes), "it has crashed")

    def is_running(self) -> bool:
        """Return whether the server is running."""
        return (self._data / "postmaster.pid").exists()

    def _run(self, command: str, *arguments: str) -> None:
        with self.machine.entered():
            subprocess.run(
                [self._binaries / command, f"--pgdata={self._data}", *arguments],
                cwd=self._folder,
                user=unprivileged_user(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=WAIT_SECONDS,
            )


@contextmanager
def cluster(binaries: Path, machine: Machine = LOCALHOST) -> Iterator[Cluster]:
    """A running server, which is stopped and removed at the end."""
    # Not in pytest's folder, which other users can't enter.
    with tempfile.TemporaryDirectory(prefix="galaxy_express_postgresql_") as folder:
        hand_over(Path(folder))
        new = Cluster(binaries, Path(folder), machine=machine)
        new.start()
        try:
            yield new
        finally:
            if new.is_running():
                new.stop()
