"""Overload: the service works at capacity, and answers the rest with 503."""

import json
from statistics import median

from tests.servers.http_client import head, package
from tests.servers.running import Installation
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.hammer import Hit, hammer

# The packages that may wait in each worker. As many again may be in its commit.
MAX_QUEUED = 50
CAPACITY_CLIENTS = 64
OVERLOAD_CLIENTS = 1_000

# Seconds after which warming up is only a small part of a load.
SETTLED = 10


def test_overload(installation: Installation, amount: Amount, report: Report) -> None:
    """Under overload, throughput holds up, excess requests get a fast 503 with ``Retry-After``, and
    the service recovers afterwards."""
    installation.configure("desk.max_queued", str(MAX_QUEUED))
    with installation.gunicorn() as server:

        def send(clients: int) -> list[Hit]:
            return list(hammer(server.port, clients, amount.seconds, _request))

        before = send(CAPACITY_CLIENTS)
        crowd = send(OVERLOAD_CLIENTS)
        after = send(MAX_QUEUED)
        statistics = server.request("GET", "/statistics").json

    served = [hit for hit in crowd if hit.status == 201]
    rejected = [hit for hit in crowd if hit.status == 503]
    assert len(served) + len(rejected) == len(crowd)
    assert rejected
    assert all(hit.retry_after for hit in rejected)
    assert served
    served_before = sum(hit.status == 201 for hit in before)
    # Rates are only comparable in a long run, without other load on the machine.
    if amount.seconds > SETTLED:
        assert len(served) > served_before / 4  # clients and rejections take their share
        assert _wait(rejected) < _wait(served)
    assert {hit.status for hit in after} == {201}
    answered = sum(hit.status == 201 for hit in before + crowd + after)
    assert statistics["packages_delivered"] == answered
    report(
        f"{OVERLOAD_CLIENTS} concurrent clients, of which {2 * MAX_QUEUED} may queue",
        f"{amount.seconds:.0f} s",
        f"{len(served) / amount.seconds:.0f} decisions/s (with {CAPACITY_CLIENTS} clients"
        f" {served_before / amount.seconds:.0f}/s); {len(rejected):,} answered `503` with"
        f" `Retry-After` after {_wait(rejected):.0f} ms (median; decisions after"
        f" {_wait(served):.0f} ms); none after the overload",
    )


def _request() -> bytes:
    body = json.dumps(package()).encode()
    return head("POST /packages HTTP/1.1", f"Content-Length: {len(body)}") + body


def _wait(hits: list[Hit]) -> float:
    """The median latency in milliseconds."""
    return 1e3 * median(hit.seconds for hit in hits)
