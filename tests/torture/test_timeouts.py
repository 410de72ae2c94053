"""Requests that take longer than they may, and what becomes of them."""

from concurrent.futures import ThreadPoolExecutor

from galaxy_express.ops.audit import audit_database
from tests.servers.running import Installation
from tests.servers.speaking import package
from tests.torture.conftest import Report

CLIENTS = 8


def test_server_timeout(installation: Installation, report: Report) -> None:
    """A request that takes longer than Baseplate's ``server_timeout`` is told to come again,
    in time. When it does it finds what its commit did after all, if that was under way, and
    is decided if it was not."""
    installation.configure("server_timeout.by_endpoint.send_package", "500 milliseconds")
    packages = [package() for _ in range(CLIENTS)]
    with (
        installation.gunicorn(workers=1) as server,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):

        def send(parcel: dict[str, str]) -> tuple[int, str]:
            answer = server.request("POST", "/packages", parcel)
            return answer.status, answer.json.get("detail", "")

        with installation.database.locked():
            timed_out = list(clients.map(send, packages))
            assert server.is_healthy("readiness")
        found = [send(parcel)[0] for parcel in packages]

    assert timed_out == [(503, "the request took too long; a retry is safe")] * CLIENTS
    # Those that waited for the commit that waited for the lock are given up.
    assert found.count(200) >= 1
    assert found.count(201) >= 1
    assert found.count(200) + found.count(201) == CLIENTS
    stored = installation.database.stored()
    assert stored == installation.database.counted() == {("delivered", "personal"): CLIENTS}
    audit_database(installation.database.config)
    report(
        "`server_timeout` of 500 ms, another process with the lock",
        f"{CLIENTS} requests",
        f"all answered `503` in time; sent again, {found.count(200)} had been decided by the"
        f" commit that was under way, {found.count(201)} had not",
    )
