"""Shutdown and reload at random moments, unnoticed by clients being served."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

from galaxy_express.ops.audit import audit_database
from tests.servers.http_client import exchange, head, package
from tests.servers.load import Load, audit, mixed_jobs, send
from tests.servers.running import Installation, Server, wait_until
from tests.torture.amount import Amount
from tests.torture.conftest import Report

CLIENTS = 4  # of each kind
DRAIN_SECONDS = 1
GRACEFUL_TIMEOUT = 6


def test_stops(
    install: Callable[[], Installation], amount: Amount, rng: random.Random, report: Report
) -> None:
    """On SIGTERM a server reports that it isn't ready, serves on, exits in time with code 0, and
    leaves no started request unanswered."""
    requests = 0
    longest = 0.0
    for _ in range(amount.ends):
        installation = install()
        installation.environment["GALAXY_EXPRESS_DRAIN_SECONDS"] = str(DRAIN_SECONDS)
        server = installation.gunicorn(f"--graceful-timeout={GRACEFUL_TIMEOUT}")
        mixed, unique = Load(leave_when_closed=True), Load(leave_when_closed=True)
        with server, mixed, unique:
            for client in range(CLIENTS):
                mixed.add_client(server.port, mixed_jobs(client))
                unique.add_client(server.port, (send(package()) for _ in count()))
            unique.wait_for(50)
            time.sleep(rng.uniform(0, 0.5))
            server.signal(signal.SIGTERM)
            stopped = time.monotonic()
            _wait_until_unready(server)
            unique.wait_for(10)
            assert server.wait() == 0
            took = time.monotonic() - stopped
        assert DRAIN_SECONDS < took < GRACEFUL_TIMEOUT
        longest = max(longest, took)
        audit(mixed.exchanges + unique.exchanges, installation.database)
        audit_database(installation.database.config)
        stored = {key for (key,) in installation.database.rows("SELECT package_id FROM packages")}
        sent = {ended.job.body["package_id"]: ended.answer for ended in unique.exchanges}
        assert [key for key, answer in sent.items() if answer is None and key in stored] == []
        requests += len(mixed.exchanges) + len(unique.exchanges)
    report(
        f"`SIGTERM` under the load of {2 * CLIENTS} clients",
        f"{amount.ends} times",
        f"{requests:,} requests; started and not answered: 0; stopped within {longest:.1f} s,"
        f" {DRAIN_SECONDS} s of which not ready but still serving",
    )


def _wait_until_unready(server: Server) -> None:
    def says_so() -> bool:
        answer = server.request("GET", "/health?type=readiness")
        return answer.status == 503 and answer.is_problem

    wait_until(says_so, "not ready any more")


def test_reloads(
    install: Callable[[], Installation], amount: Amount, rng: random.Random, report: Report
) -> None:
    """On SIGHUP gunicorn replaces its workers, and every request is answered, on persistent and new
    connections, fast and slow."""
    requests = 0
    for _ in range(amount.ends):
        installation = install()
        with (
            installation.gunicorn() as server,
            ThreadPoolExecutor() as threads,
            Load() as load,
        ):
            reloaded = Event()
            for client in range(CLIENTS):
                load.add_client(server.port, mixed_jobs(client))
            newcomers = [
                threads.submit(_send_on_new_connections, server, delay, reloaded)
                for delay in (0, 0.02, 0.05, 0.1) * CLIENTS
            ]
            load.wait_for(50)
            time.sleep(rng.uniform(0, 0.5))
            _reload(server)
            load.wait_for(50)
            reloaded.set()
            requests += sum(newcomer.result() for newcomer in newcomers)
        assert [exchange for exchange in load.exchanges if not exchange.is_successful] == []
        audit_database(installation.database.config)
        requests += len(load.exchanges)
    report(
        f"`SIGHUP` under the load of {5 * CLIENTS} clients",
        f"{amount.ends} times",
        f"{requests:,} requests; failed: 0",
    )


def _reload(server: Server) -> None:
    before = server.workers
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(server.workers) == 2 and not server.workers & before, "new workers")


def _send_on_new_connections(server: Server, delay: float, end: Event) -> int:
    """Send packages, each on a new connection; return how many.

    :param delay: seconds between connection and request, as on a slow network.
    """
    sent = 0
    while not end.is_set():
        (answer,) = exchange(server.port, _after(delay, json.dumps(package()).encode()))
        assert answer.status == 201
        sent += 1
    return sent


def _after(delay: float, body: bytes) -> Iterator[bytes]:
    time.sleep(delay)
    yield head("POST /packages HTTP/1.1", f"Content-Length: {len(body)}") + body
