"""A server with its own database, and load on it."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import baseline
from benchmarks.audit import Ledger
from benchmarks.fill import fill
from benchmarks.processor import processor_seconds
from benchmarks.revisions import PRESENT, Revision
from benchmarks.settings import ROOT, Settings
from benchmarks.wrk import Load, Run, run_wrk
from tests.backends import PostgreSQLBackend
from tests.servers.running import Server, free_port


class Target:
    """A running server that load is sent to.

    :param folder: for the files that wrk reads and writes.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._decisions = folder / "decisions"
        self._known = folder / "known"
        self._known.touch()

    def load(self, load: Load, seconds: int) -> Run:
        """Send a load for a while.

        :raises SystemExit: if no response is as expected, or a worker has exited.
        """
        workers = self.workers
        before = processor_seconds(workers)
        run = run_wrk(self._server.port, load, seconds, self._decisions, self._known)
        if self.workers != workers:
            sys.exit(f"A worker exited during {load}. {self._server.log[-2000:]}")
        if run.errors:
            print(f"{run.errors} errors of {load}. {self._server.log[-2000:]}", file=sys.stderr)
        if not run.good:
            sys.exit(f"No response to {load} was as expected.")
        return replace(run, processor=processor_seconds(workers) - before)

    @property
    def workers(self) -> set[int]:
        """The process ids of its workers."""
        return self._server.workers

    def resident_megabytes(self) -> float:
        """The resident memory of its largest worker."""
        return max(_resident_bytes(worker) for worker in self.workers) / 1e6


class Service(Target):
    """A running server whose responses are compared with its database."""

    def __init__(self, server: Server, folder: Path, ledger: Ledger) -> None:
        super().__init__(server, folder)
        self._ledger = ledger

    def run(self, load: Load, seconds: int) -> Run:
        """Send a load for a while, and check that the acknowledged packages are in the database.

        :raises benchmarks.audit.Discrepancy: if they aren't.
        :raises SystemExit: as :py:meth:`load` does.
        """
        run = self.load(load, seconds)
        self.enter(load, run)
        return run

    def enter(self, load: Load, run: Run) -> None:
        """Check that the acknowledged packages of the last load are in the database.

        :raises benchmarks.audit.Discrepancy: if they aren't.
        """
        self._ledger.enter(self._decisions, load.packages * (run.made - run.good))

    def send_known_packages(self) -> None:
        """Send packages for a second, for later reads and retries."""
        self.run(Load("send", 64), 1)
        with open(self._decisions, encoding="ascii") as decisions:
            self._known.write_text("".join(f"{line.split()[0]}\n" for line in decisions))

    def check(self) -> None:
        """Compare the statistics with the database and the responses.

        :raises benchmarks.audit.Discrepancy: if they don't agree.
        """
        self._ledger.check()


class Instances:
    """Several instances of the service with the same database.

    :param database_url: the URL of their database.
    """

    def __init__(self, services: Sequence[Service], database_url: str) -> None:
        self._services = services
        self.database_url = database_url

    def run(self, load: Load, seconds: int) -> None:
        """Send a load to each instance, and check the database; see :py:meth:`Service.run`."""
        self.enter(load, self.load(load, seconds))

    def load(self, load: Load, seconds: int) -> list[Run]:
        """Send a load to each instance at the same time; see :py:meth:`Target.load`."""
        with ThreadPoolExecutor(len(self._services)) as threads:
            return list(threads.map(lambda service: service.load(load, seconds), self._services))

    def enter(self, load: Load, runs: Iterable[Run]) -> None:
        """Check the database after a load; see :py:meth:`Service.enter`."""
        for service, run in zip(self._services, runs, strict=True):
            service.enter(load, run)

    def check(self) -> None:
        """Compare the statistics with the database; see :py:meth:`Service.check`."""
        self._services[0].check()


def _resident_bytes(pid: int) -> int:
    # The second field: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(
    settings: Settings,
    revision: Revision = PRESENT,
    *,
    config: str | None = None,
    workers: int | None = None,
    packages: int = 0,
) -> Iterator[Service]:
    """Serve a revision with an empty database, like ``make serve``; remove both afterwards.

    :param config: the content of production.ini; by default, the revision's.
    :param workers: the number of workers; by default, that in the settings.
    :param packages: the initial number of packages.
    """
    with _folder(settings) as folder, _empty_database(settings.postgres, folder) as database_url:
        revision.create_tables(database_url)
        if packages:
            fill(database_url, packages)
        with _server(revision, folder, database_url, workers or settings.workers, config) as server:
            yield Service(server, folder, _ledger(server, database_url, packages))


@contextmanager
def serving_instances(settings: Settings, number: int) -> Iterator[Instances]:
    """Serve this revision with several instances and one empty database; remove all afterwards."""
    with ExitStack() as stack:
        folders = [stack.enter_context(_folder(settings)) for _ in range(number)]
        database_url = stack.enter_context(_empty_database(settings.postgres, folders[0]))
        PRESENT.create_tables(database_url)
        servers = [
            stack.enter_context(_server(PRESENT, folder, database_url, settings.workers))
            for folder in folders
        ]
        ledger = _ledger(servers[0], database_url)
        services = [
            Service(server, folder, ledger) for server, folder in zip(servers, folders, strict=True)
        ]
        yield Instances(services, database_url)


@contextmanager
def serving_baseline(settings: Settings) -> Iterator[Service]:
    """Serve the plain implementation with an empty database; remove both afterwards."""
    with _folder(settings) as folder, _empty_database(settings.postgres, folder) as database_url:
        baseline.create_tables(database_url)
        variables = {baseline.DATABASE_URL: database_url}
        server = _stock_server(settings, folder, "benchmarks.baseline:application()", variables)
        with server:
            yield Service(server, folder, _ledger(server, database_url))


@contextmanager
def serving_bare(settings: Settings) -> Iterator[Target]:
    """Serve a WSGI function that does nothing."""
    with (
        _folder(settings) as folder,
        _stock_server(settings, folder, "benchmarks.bare:application", {}) as server,
    ):
        yield Target(server, folder)


def _server(
    revision: Revision, folder: Path, database_url: str, workers: int, config: str | None = None
) -> Server:
    """A revision under its own gunicorn worker, not started."""
    shutil.copytree(revision.root / "configs", folder / "configs")
    if config is not None:
        (folder / "configs/production.ini").write_text(config)
    port = free_port()
    command = [str(revision.python), "-m", "gunicorn", "--config", "configs/gunicorn.conf.py"]
    environment = _environment(revision.root) | {
        "GALAXY_EXPRESS_BIND": f"127.0.0.1:{port}",
        "GALAXY_EXPRESS_DATABASE_URL": database_url,
        "GALAXY_EXPRESS_DRAIN_SECONDS": "0",  # no load balancer needs to notice the shutdown
        "GALAXY_EXPRESS_METRICS_BIND": f"127.0.0.1:{free_port()}",
        "GALAXY_EXPRESS_WORKERS": str(workers),
    }
    return Server(command, folder, port, environment)


def _stock_server(
    settings: Settings, folder: Path, application: str, variables: dict[str, str]
) -> Server:
    """An application under gunicorn's own gevent worker, not started."""
    port = free_port()
    metrics = folder / "metrics"
    metrics.mkdir()
    command = [
        *(sys.executable, "-m", "gunicorn", application),
        *("--worker-class=gevent", f"--workers={settings.workers}", f"--bind=127.0.0.1:{port}"),
        *("--keep-alive=75", "--worker-tmp-dir=/dev/shm", "--no-control-socket"),
    ]
    environment = _environment(ROOT) | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)} | variables
    return Server(command, folder, port, environment)


def _ledger(server: Server, database_url: str, packages: int = 0) -> Ledger:
    def statistics() -> Any:
        return server.request("GET", "/statistics").json

    return Ledger(statistics, database_url, packages)


def _environment(root: Path) -> dict[str, str]:
    ours = ("GALAXY_EXPRESS_", "PROMETHEUS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {"PYTHONPATH": str(root)}


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    with TemporaryDirectory(prefix="bench-", dir=settings.folder.resolve()) as folder:
        yield Path(folder)


@contextmanager
def _empty_database(postgres: str | None, folder: Path) -> Iterator[str]:
    if postgres is None:
        yield f"sqlite:///{folder}/galaxy_express.db"
        return
    backend = PostgreSQLBackend(postgres, f"galaxy_express_bench_{uuid.uuid4().hex}")
    with ExitStack() as stack:
        backend.create()
        stack.callback(backend.drop)
        yield backend.url
