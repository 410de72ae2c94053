"""Kills under load: no answer is lost, and no package is decided twice."""

import os
import random
import signal
from functools import partial

from tests.servers.load import Exchange, Load, audit, finish, mixed_jobs
from tests.servers.running import Installation, Server, wait_until

CLIENTS = 8


def test_killed_workers_lose_nothing(installation: Installation) -> None:
    """Workers killed under load are replaced, and their responses stay valid."""
    with installation.gunicorn() as server:
        with Load() as load:
            for client in range(CLIENTS):
                load.add_client(server.port, mixed_jobs(client))
            for _ in range(2):
                load.wait_for(150)
                killed = random.choice(sorted(server.workers))
                os.kill(killed, signal.SIGKILL)
                wait_until(partial(_is_replaced, server, killed), "a new worker")
            load.wait_for(150)
        exchanges = finish(load.exchanges, server)
        audit(exchanges, installation.database, server)


def _is_replaced(server: Server, worker: int) -> bool:
    return worker not in server.workers and len(server.workers) == 2


def test_killed_servers_lose_nothing(installation: Installation) -> None:
    """A server killed under load restarts with everything it had answered."""
    server = installation.gunicorn()
    exchanges: list[Exchange] = []
    for round_ in range(3):
        with server, Load(leave_when_closed=True) as load:
            for client in range(CLIENTS):
                load.add_client(server.port, mixed_jobs(client, f"round-{round_}"))
            load.wait_for(random.randrange(200, 300))
            server.kill()
        exchanges += load.exchanges
        audit(exchanges, installation.database)
    assert any(exchange.answer is None for exchange in exchanges)
    with server:
        audit(finish(exchanges, server), installation.database, server)
