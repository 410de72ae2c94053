"""A server as production has it, a database of its own, and load on it."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.audit import Ledger
from benchmarks.fill import fill
from benchmarks.settings import Settings
from benchmarks.wrk import Load, Run, run_wrk
from galaxy_express.models import create_schema
from tests.backends import PostgreSQLBackend
from tests.servers.running import ROOT, Server, free_port

# As `make serve` starts it.
GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "configs/gunicorn.conf.py"]


class Service:
    """A running server, and the account of what it has answered."""

    def __init__(self, server: Server, ledger: Ledger, folder: Path) -> None:
        self._server = server
        self._ledger = ledger
        self._decisions = folder / "decisions"
        self._known = folder / "known"
        self._known.touch()

    def run(self, load: Load, seconds: int) -> Run:
        """Send a load for a while, and find in the database what was answered.

        :raises benchmarks.audit.Discrepancy: if it isn't there.
        """
        run = self.load(load, seconds)
        self._ledger.enter(self._decisions, load.packages * (run.made - run.good))
        return run

    def load(self, load: Load, seconds: int) -> Run:
        """Send a load for a while, and look for nothing in the database.

        The program ends if no answer is good.
        """
        run = run_wrk(self._server.port, load, seconds, self._decisions, self._known)
        if run.errors:
            print(f"{run.errors} errors of {load}. {self._server.log[-2000:]}", file=sys.stderr)
        if not run.good:
            sys.exit(f"There is no good answer to {load}.")
        return run

    @property
    def workers(self) -> set[int]:
        """The process ids of its workers."""
        return self._server.workers

    def get_to_know_packages(self) -> None:
        """Send packages for a second, to read them and to send them again later."""
        self.run(Load("send", 64), 1)
        with open(self._decisions, encoding="ascii") as decisions:
            self._known.write_text("".join(f"{line.split()[0]}\n" for line in decisions))

    def check(self) -> None:
        """Compare the statistics with the database, and with what was answered.

        :raises benchmarks.audit.Discrepancy: if they don't agree.
        """
        self._ledger.check()

    def resident_megabytes(self) -> float:
        """How much memory its workers have, as Linux counts it, the largest of them."""
        return max(_resident_bytes(worker) for worker in self.workers) / 1e6


def _resident_bytes(pid: int) -> int:
    # The second figure: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(
    settings: Settings,
    *,
    config: str | None = None,
    workers: int | None = None,
    packages: int = 0,
) -> Iterator[Service]:
    """Start a server with an empty database. Afterwards both are gone.

    :param config: of another application than the service: the content of production.ini.
    :param workers: how many, if not as many as the settings say.
    :param packages: how many are there from the start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-", dir=settings.folder)))
        database_url = stack.enter_context(_empty_database(settings.postgres, folder))
        create_schema({"database.url": database_url})
        if packages:
            fill(database_url, packages)

        shutil.copytree(ROOT / "configs", folder / "configs")
        if config is not None:
            (folder / "configs/production.ini").write_text(config)
        port = free_port()
        environment = os.environ | {
            "GALAXY_EXPRESS_BIND": f"127.0.0.1:{port}",
            "GALAXY_EXPRESS_DATABASE_URL": database_url,
            "GALAXY_EXPRESS_DRAIN_SECONDS": "0",  # no load balancer needs to notice the end
            "GALAXY_EXPRESS_WORKERS": str(workers or settings.workers),
            "PYTHONPATH": str(ROOT),
        }
        server = stack.enter_context(Server(GUNICORN, folder, port, environment))

        def statistics() -> Any:
            return server.request("GET", "/statistics").json

        yield Service(server, Ledger(statistics, database_url, packages), folder)


@contextmanager
def _empty_database(postgres: str | None, folder: Path) -> Iterator[str]:
    if postgres is None:
        yield f"sqlite:///{folder}/galaxy_express.db"
        return
    backend = PostgreSQLBackend(postgres, f"galaxy_express_bench_{uuid.uuid4().hex}")
    backend.create()
    try:
        yield backend.url
    finally:
        backend.drop()
