"""What Prometheus reads from a server with several workers."""

import fcntl
import os
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGHUP, SIGKILL
from threading import Thread
from typing import Any

import pytest
from baseplate.lib.config import InternetAddress
from baseplate.server.prometheus import METRICS_ENDPOINT, PROMETHEUS_EXPORTER_ADDRESS
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from galaxy_express.package_types import PACKAGE_TYPES
from tests.servers.running import ROOT, Installation, Server, free_port, wait_until
from tests.servers.speaking import TIMEOUT, Unanswered, exchange, head, package
from tests.servers.test_first_hour import skip_unless_set_up

assert isinstance(PROMETHEUS_EXPORTER_ADDRESS.address, InternetAddress)
PORT = PROMETHEUS_EXPORTER_ADDRESS.address.port
Labels = tuple[tuple[str, str], ...]


@pytest.fixture
def measured(installation: Installation) -> Iterator[Installation]:
    """The service with metrics, and with the exporter's port, which is always the same and
    which servers share in silence, to itself."""
    with open(Path(tempfile.gettempdir()) / "galaxy_express_exporter.lock", "w") as lock:
        wait_until(lambda: _is_locked(lock), "no other test has the exporter's port", within=120)
        wait_until(_is_port_free, f"nobody else listens on the exporter's port {PORT}")
        installation.configure("metrics.enabled", "true")
        yield installation


def _is_locked(lock: Any) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_port_free() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed one is no matter
        with suppress(OSError):
            probe.bind(("0.0.0.0", PORT))  # noqa: S104 - as the exporter does
            return True
    return False


class Scrape:
    """What the exporter says at one moment."""

    def __init__(self) -> None:
        connection = HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT)
        connection.request("GET", METRICS_ENDPOINT)
        self.text = connection.getresponse().read().decode()
        connection.close()
        self.families = list(text_string_to_metric_families(self.text))

    def series(self, name: str) -> dict[Labels, float]:
        """The value of each series of that name, by its labels, without those that are zero."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and sample.value
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of those series of that name that have those labels, among others."""
        return sum(
            value
            for series, value in self.series(name).items()
            if set(labels.items()) <= set(series)
        )

    def sends(self) -> dict[tuple[str, str], float]:
        """How many sends there were, by outcome and type of package."""
        series = self.series("galaxy_express_sends_total")
        return {(dict(key)["outcome"], dict(key)["package_type"]): series[key] for key in series}


def counters_of(worker: int, installation: Installation) -> int:
    """How many sends one worker has counted, from its own file."""
    files = list(installation.folder.glob(f"galaxy_express_metrics_*/counter_{worker}.db"))
    return sum(
        int(sample.value)
        for family in MultiProcessCollector.merge(files)
        for sample in family.samples
        if sample.name == "galaxy_express_sends_total"
    )


def metrics_files(installation: Installation) -> set[str]:
    """The names of the files in the folder of metrics."""
    return {path.name for path in installation.folder.glob("galaxy_express_metrics_*/*")}


def files_of(workers: int) -> set[str]:
    """All that so many workers may have at the same time."""
    kinds = ("counter", "gauge_livesum", "histogram")
    return {f"{kind}_{number}.db" for kind in kinds for number in range(workers)}


def update(moment: str, *, marketing: bool) -> dict[str, object]:
    """A preference update."""
    return {
        "timestamp": f"2142-03-01T{moment}Z",
        "personal_preference": True,
        "marketing_preference": marketing,
    }


def test_totals_of_all_workers_are_what_was_sent(measured: Installation) -> None:
    """Whatever is sent is counted once, by its outcome and type, whichever worker it met;
    beside it there is what Baseplate counts."""
    with measured.gunicorn(workers=2) as server:
        sent: Counter[tuple[str, str]] = Counter()

        def send(parcel: object, outcome: str, package_type: str = "") -> None:
            server.request("POST", "/packages", parcel)
            sent[outcome, package_type] += 1

        def both_workers_have_sends() -> bool:
            send(package(), "delivered", "personal")
            return all(counters_of(worker, measured) for worker in (0, 1))

        preferences = "/recipients/fry/preferences"
        applied = [update("12:00:00", marketing=False)] * 2  # a repeat is in force, too
        stale = [update("11:00:00", marketing=True)]
        for body in applied + stale:
            server.request("PUT", preferences, body)

        wait_until(both_workers_have_sends, "both workers have answered a send")
        parcel, unwanted = package(), package(recipient_id="fry", package_type="marketing")
        send(parcel, "delivered", "personal")
        send(package(package_type="marketing"), "delivered", "marketing")
        send(unwanted, "dropped", "marketing")
        send(unwanted, "replayed", "marketing")
        send(parcel | {"sender_id": "kif"}, "conflicting", "personal")
        send({}, "rejected")
        send(b"{", "rejected")
        send(b" " * 100_000, "rejected")
        requests = sent.total()

        batch = [package(), parcel, parcel | {"recipient_id": "amy"}, {}, None]
        server.request("POST", "/packages/batch", batch)
        server.request("POST", "/packages/batch", b"{}")
        requests += 2
        sent["delivered", "personal"] += 1
        sent["replayed", "personal"] += 1
        sent["conflicting", "personal"] += 1
        sent["rejected", ""] += 3

        scrape, statistics = Scrape(), server.request("GET", "/statistics").json
        shares = [counters_of(worker, measured) for worker in (0, 1)]

    assert scrape.sends() == sent
    assert all(0 < share < sent.total() for share in shares), "one worker did it all"
    assert statistics["packages_delivered"] == scrape.total(
        "galaxy_express_sends_total", outcome="delivered"
    )
    assert statistics["requests_rejected"] == sum(
        scrape.total("galaxy_express_sends_total", outcome=outcome)
        for outcome in ("rejected", "conflicting")
    )
    assert scrape.series("galaxy_express_preference_updates_total") == {
        (("result", "applied"),): len(applied),
        (("result", "stale"),): len(stale),
    }
    assert scrape.total("http_server_requests_total", http_method="post") == requests
    assert scrape.total("http_server_latency_seconds_count", http_method="put") == 3


def test_commits_are_timed_and_their_groups_measured(measured: Installation) -> None:
    """Commits are counted by success, with their time and the number of their writes; what
    waits for one is in the queue."""
    measured.configure("database.lock_timeout", "500 milliseconds")
    answers: list[int] = []
    with measured.gunicorn(workers=1) as server:

        def send() -> None:
            answers.append(server.request("POST", "/packages", package()).status)

        send()
        before = Scrape()
        clients = [Thread(target=send) for _ in range(8)]
        with measured.database.locked():
            for client in clients:
                client.start()
            wait_until(
                lambda: Scrape().total("galaxy_express_queued_packages") > 0, "packages wait"
            )
            wait_until(
                lambda: Scrape().total("galaxy_express_commit_seconds_count", success="false") > 0,
                "a commit fails",
            )
        for client in clients:
            client.join()
        after = Scrape()

    assert before.total("galaxy_express_queued_packages") == 0
    assert before.series("galaxy_express_commit_seconds_count") == {(("success", "true"),): 1}
    assert before.total("galaxy_express_commit_writes_sum") == 1

    assert after.total("galaxy_express_queued_packages") == 0
    assert after.total("galaxy_express_commit_writes_sum") == answers.count(201)
    commits = after.total("galaxy_express_commit_seconds_count", success="true")
    assert commits == after.total("galaxy_express_commit_writes_count")
    assert 1 < commits < answers.count(201), "those that waited shared a transaction"
    assert after.total("galaxy_express_commit_seconds_sum", success="true") < TIMEOUT

    failed = after.total("galaxy_express_commit_seconds_count", success="false")
    assert 1 <= failed <= answers.count(503)
    assert after.total("galaxy_express_commit_seconds_sum", success="false") >= 0.5 * failed


@pytest.fixture
def hostile_scrape(measured: Installation) -> Scrape:
    """The metrics after a client has put the word ``needle`` wherever it could."""
    with measured.gunicorn(workers=1) as server:
        parcel = package(package_id="needle-1", sender_id="needle", recipient_id="needle")
        server.request("POST", "/packages", parcel)
        server.request("POST", "/packages", parcel)
        server.request("POST", "/packages", parcel | {"sender_id": "another needle"})
        server.request("POST", "/packages", parcel | {"package_type": "needle"})
        server.request("POST", "/packages/batch", [parcel, package(package_type="needle")])
        server.request(
            "PUT",
            "/recipients/needle/preferences",
            update("12:00:00", marketing=True) | {"needle_preference": True},
        )
        for path in (
            "/packages/needle-1",
            "/recipients/needle/preferences",
            "/statistics?needle=needle",
            "/health?type=needle",
            "/static/needle",
            "/needle",
        ):
            server.request("GET", path)
        needles = [f"{name}: needle" for name in ("X-Request-ID", "X-Trace", "User-Agent")]
        exchange(server.port, [head("GET /statistics HTTP/1.1", *needles)])
        exchange(server.port, [head("NEEDLE /packages HTTP/1.1")])
        return Scrape()


def test_labels_are_bounded(hostile_scrape: Scrape) -> None:
    """Nothing that a client makes up becomes a label: no id, path, header or method, and no
    type that isn't registered."""
    assert "needle" not in hostile_scrape.text.lower()
    assert {outcome for outcome, _ in hostile_scrape.sends()} <= {
        "delivered",
        "dropped",
        "replayed",
        "conflicting",
        "rejected",
    }
    assert {name for _, name in hostile_scrape.sends()} <= {"", *PACKAGE_TYPES.names}


def test_a_killed_worker_leaves_its_counts_and_nothing_else(measured: Installation) -> None:
    """What a worker counted stays when it is killed, what it was doing at the moment goes, and
    the one in its place goes on where it stopped, in the same files."""
    for patience in ("database.lock_timeout", "desk.timeout", "server_timeout.default"):
        measured.configure(patience, "1 minute")
    with measured.gunicorn(workers=2) as server:
        workers = wait_for_workers(server, 2, other_than=set())
        for _ in range(20):
            server.request("POST", "/packages", package())

        def send_in_vain() -> None:
            with suppress(Unanswered):
                server.request("POST", "/packages", package())

        clients = [Thread(target=send_in_vain) for _ in range(8)]
        with measured.database.locked():
            for client in clients:
                client.start()
            wait_until(lambda: active_sends(Scrape()) == len(clients), "all of them wait")
            for worker in workers:
                os.kill(worker, SIGKILL)
            for client in clients:
                client.join()
            successors = wait_for_workers(server, 2, other_than=workers)
        server.wait_until_alive()
        after_kill = Scrape()
        files_after_kill = metrics_files(measured)

        server.request("POST", "/packages", package())
        after_one_more = Scrape()

        server.signal(SIGHUP)
        renewed = wait_for_workers(server, 2, other_than=successors)
        server.wait_until_alive()
        after_renewal = Scrape()

        server.signal(SIGHUP)
        wait_for_workers(server, 2, other_than=renewed)
        server.wait_until_alive()
        files_in_the_end = metrics_files(measured)

    assert after_kill.sends() == {("delivered", "personal"): 20}
    assert active_sends(after_kill) == 0
    assert after_one_more.sends() == after_renewal.sends() == {("delivered", "personal"): 21}
    assert files_after_kill <= files_of(2)
    # While they are renewed there are twice as many workers, and never more.
    assert files_in_the_end <= files_of(4)


def active_sends(scrape: Scrape) -> float:
    """How many sends are being answered at the moment."""
    return scrape.total("http_server_active_requests", http_endpoint="/packages")


def wait_for_workers(server: Server, number: int, other_than: set[int]) -> set[int]:
    """Wait until there are so many workers, and none of some that were there before."""
    wait_until(
        lambda: len(server.workers) == number and not server.workers & other_than,
        f"there are {number} new workers",
    )
    return server.workers


def test_the_folder_of_metrics_is_removed(measured: Installation) -> None:
    """The folder that gunicorn makes for metrics is gone when gunicorn is."""
    with measured.gunicorn(workers=1) as server:
        server.request("GET", "/statistics")
        assert metrics_files(measured)
    assert not list(measured.folder.glob("galaxy_express_metrics_*"))


def test_a_folder_that_was_given_is_used_and_kept(measured: Installation) -> None:
    """Whoever names a folder for metrics keeps it."""
    folder = measured.folder / "metrics"
    folder.mkdir()
    measured.environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    with measured.gunicorn(workers=1) as server:
        server.request("GET", "/statistics")
        assert not list(measured.folder.glob("galaxy_express_metrics_*"))
    assert list(folder.glob("counter_*.db"))


def test_baseplate_serve_exports_metrics(measured: Installation) -> None:
    """Baseplate's own server has the same metrics, once it is given a folder for them."""
    folder = measured.folder / "metrics"
    folder.mkdir()
    measured.environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    with measured.baseplate_serve() as server:
        server.request("POST", "/packages", package())
        server.request("POST", "/packages", {})
        scrape = Scrape()
    assert scrape.sends() == {("delivered", "personal"): 1, ("rejected", ""): 1}
    assert scrape.total("http_server_requests_total", http_endpoint="/packages") == 2
    assert scrape.total("galaxy_express_commit_writes_sum") == 2


# What is asked of make, in the checkout itself


def make_run(installation: Installation) -> Server:
    """``make run``, yet to be started, which keeps its metrics in a folder of the test."""
    if not shutil.which("make"):
        pytest.skip("the commands are make's")
    skip_unless_set_up()
    port = free_port()
    variables = {
        "BIND": f"127.0.0.1:{port}",
        "METRICS": str(installation.folder / "metrics"),
        "VENV": sys.prefix,
    }
    assignments = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "-C", str(ROOT), "run", *assignments]
    return Server(command, installation.folder, port, installation.environment)


def test_make_run_has_metrics(measured: Installation) -> None:
    """``make run`` has metrics, and each time they start anew, though the last server was
    killed."""
    scrapes = []
    for _ in range(2):
        with make_run(measured) as server:
            server.request("POST", "/packages", package())
            scrapes.append(Scrape().sends())
            server.kill()
    assert scrapes == [{("delivered", "personal"): 1}] * 2


def test_make_run_keeps_metrics_where_it_is_told(measured: Installation) -> None:
    """Whoever names a folder for metrics has those of ``make run`` in there, and keeps them. It
    is made if it isn't there."""
    folder = measured.folder / "named" / "by me"
    measured.environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    with make_run(measured) as server:
        server.request("POST", "/packages", package())
    assert list(folder.glob("counter_*.db"))
    assert not list(measured.folder.glob("metrics/*.db"))


def test_make_run_beside_another_server(measured: Installation) -> None:
    """If something has the exporter's port ``make run`` says so, serves without metrics, and
    takes none of the other's requests."""
    everywhere = ("0.0.0.0", PORT)  # noqa: S104 - as the exporter does
    with socket.create_server(everywhere), make_run(measured) as server:
        assert server.request("POST", "/packages", package()).status == 201
        assert (
            "Something listens on port 6060 already, where metrics are read: "
            "this server goes without.\n"
        ) in server.log
        assert "Traceback" not in server.log
