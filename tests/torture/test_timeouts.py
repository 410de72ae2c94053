"""Requests that exceed their timeout."""

from concurrent.futures import ThreadPoolExecutor

from galaxy_express.ops.audit import audit_database
from tests.servers.http_client import package
from tests.servers.running import Installation
from tests.torture.conftest import Report

CLIENTS = 8


def test_server_timeout(installation: Installation, report: Report) -> None:
    """Requests over Baseplate's ``server_timeout`` get a 503 in time; retries find the result of a
    running commit, or are decided then."""
    installation.configure("server_timeout.by_endpoint.send_package", "500 milliseconds")
    packages = [package() for _ in range(CLIENTS)]
    with (
        installation.gunicorn(workers=1) as server,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):

        def send(pkg: dict[str, str]) -> tuple[int, str]:
            answer = server.request("POST", "/packages", pkg)
            return answer.status, answer.json.get("detail", "")

        with installation.database.locked():
            timed_out = list(clients.map(send, packages))
            assert server.is_healthy("readiness")
        found = [send(pkg)[0] for pkg in packages]

    assert timed_out == [(503, "the request took too long; a retry is safe")] * CLIENTS
    # Those that waited behind the blocked commit are abandoned.
    assert found.count(200) >= 1
    assert found.count(201) >= 1
    assert found.count(200) + found.count(201) == CLIENTS
    stored = installation.database.stored()
    assert stored == installation.database.counted() == {("delivered", "personal"): CLIENTS}
    audit_database(installation.database.config)
    report(
        "`server_timeout` of 500 ms while another process holds the lock",
        f"{CLIENTS} requests",
        f"all answered `503` in time; of the retries, {found.count(200)} had been decided by the"
        f" running commit, {found.count(201)} had not",
    )
