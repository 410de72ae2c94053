"""Repeated kills at random moments: responses stay valid, and no package is decided twice."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from galaxy_express.ops.audit import audit_database
from tests.servers.load import Exchange, Load, audit, finish, mixed_jobs
from tests.servers.running import Installation, Server
from tests.torture.amount import Amount
from tests.torture.conftest import Report

CLIENTS = 12

# The audit compares all responses with all stored rows, so a database is replaced after a
# while.
ROUNDS_OF_A_DATABASE = 10


def test_kills(
    install: Callable[[], Installation], amount: Amount, rng: random.Random, report: Report
) -> None:
    """After a worker and then the whole server are killed under load, the restarted server has all
    its responses stored, and unanswered requests can be repeated."""
    requests = unanswered = 0
    for number in range(amount.kills):
        if number % ROUNDS_OF_A_DATABASE == 0:
            installation = install()
            server = installation.gunicorn()
            exchanges: list[Exchange] = []
        with server:
            load = _load_until_killed(server, number, rng)
        requests += len(load)
        unanswered += sum(exchange.answer is None for exchange in load)
        if number % 3 == 0:
            _tear(installation.folder, rng)
        with server:
            exchanges += finish(load, server)
            audit(exchanges, installation.database, server)
            audit_database(installation.database.config)
    assert unanswered, "some requests were interrupted"
    report(
        f"`SIGKILL` of a worker, then of the whole server, under the load of {CLIENTS} clients",
        f"{amount.kills} times each",
        f"{requests:,} requests, {unanswered:,} of them unanswered and retried;"
        " responses lost or changed: 0; packages decided twice: 0; counters equal rows",
    )


def _load_until_killed(server: Server, number: int, rng: random.Random) -> list[Exchange]:
    with Load() as load:
        for client in range(CLIENTS):
            # Some clients repeat the previous round's packages.
            name = f"round-{number - (client % 4 == 0)}"
            load.add_client(server.port, mixed_jobs(client, name))
        load.wait_for(100)
        time.sleep(rng.uniform(0, 1))
        os.kill(rng.choice(sorted(server.workers)), signal.SIGKILL)
        time.sleep(rng.uniform(0, 1))
        server.kill()
    return load.exchanges


def _tear(folder: Path, rng: random.Random) -> None:
    """Append garbage to the log, like a write that was interrupted by a power loss."""
    with open(folder / "galaxy_express.db-wal", "ab") as log:
        log.write(rng.randbytes(rng.randrange(1, 10_000)))
