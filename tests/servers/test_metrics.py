"""The metrics that Prometheus reads from a server with several workers."""

import os
import re
import shutil
import socket
from collections import Counter
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGHUP, SIGKILL
from threading import Thread

import pytest
from baseplate.server.prometheus import METRICS_ENDPOINT
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from galaxy_express.package_types import PACKAGE_TYPES
from tests.servers.http_client import TIMEOUT, Unanswered, exchange, head, package
from tests.servers.running import ROOT, Installation, Server, free_port, wait_until
from tests.servers.test_first_hour import VENV, skip_unless_set_up

Labels = tuple[tuple[str, str], ...]


@pytest.fixture
def measured(installation: Installation) -> Installation:
    """The service with metrics, on its own port and in its own folder."""
    installation.configure("metrics.enabled", "true")
    installation.environment["GALAXY_EXPRESS_METRICS_BIND"] = str(free_port())
    installation.environment["PROMETHEUS_MULTIPROC_DIR"] = str(installation.folder / "metrics")
    return installation


def metrics_port(installation: Installation) -> int:
    """The port of the exporter."""
    return int(installation.environment["GALAXY_EXPRESS_METRICS_BIND"])


class Scrape:
    """The exporter's output at one moment."""

    def __init__(self, installation: Installation) -> None:
        connection = HTTPConnection("127.0.0.1", metrics_port(installation), timeout=TIMEOUT)
        connection.request("GET", METRICS_ENDPOINT)
        response = connection.getresponse()
        self.text = response.read().decode()
        is_ok = response.status == 200
        connection.close()
        self.families = list(text_string_to_metric_families(self.text)) if is_ok else []

    def series(self, name: str) -> dict[Labels, float]:
        """The non-zero values of a metric's series, by labels."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and sample.value
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels, among others."""
        return sum(
            value
            for series, value in self.series(name).items()
            if set(labels.items()) <= set(series)
        )

    def sends(self) -> dict[tuple[str, str], float]:
        """The number of sends, by outcome and package type."""
        series = self.series("galaxy_express_sends_total")
        return {(dict(key)["outcome"], dict(key)["package_type"]): series[key] for key in series}


def counters_of(worker: int, installation: Installation) -> int:
    """The number of sends that one worker has counted, from its own file."""
    files = list(installation.folder.glob(f"metrics/counter_{worker}.db"))
    return sum(
        int(sample.value)
        for family in MultiProcessCollector.merge(files)
        for sample in family.samples
        if sample.name == "galaxy_express_sends_total"
    )


def metrics_files(installation: Installation) -> set[str]:
    """The names of the files in the metrics folder."""
    return {path.name for path in installation.folder.glob("metrics/*")}


def files_of(workers: int) -> set[str]:
    """All files that this many concurrent workers may have."""
    kinds = ("counter", "gauge_livesum", "histogram")
    return {f"{kind}_{number}.db" for kind in kinds for number in range(workers)}


def update(moment: str, *, marketing: bool) -> dict[str, object]:
    """A preference update."""
    return {
        "timestamp": f"2142-03-01T{moment}Z",
        "personal_preference": True,
        "marketing_preference": marketing,
    }


def test_sends_of_all_workers_are_counted(measured: Installation) -> None:
    """Every send is counted once, by outcome and type, regardless of the worker that handled it;
    Baseplate's own metrics are present too."""
    with measured.gunicorn(workers=2) as server:
        sent: Counter[tuple[str, str]] = Counter()

        def send(pkg: object, outcome: str, package_type: str = "") -> None:
            server.request("POST", "/packages", pkg)
            sent[outcome, package_type] += 1

        def both_workers_have_sends() -> bool:
            send(package(), "delivered", "personal")
            return all(counters_of(worker, measured) for worker in (0, 1))

        preferences = "/recipients/fry/preferences"
        applied = [update("12:00:00", marketing=False)] * 2  # a repeat also counts as applied
        stale = [update("11:00:00", marketing=True)]
        for body in applied + stale:
            server.request("PUT", preferences, body)

        wait_until(both_workers_have_sends, "both workers have answered a send")
        pkg, unwanted = package(), package(recipient_id="fry", package_type="marketing")
        send(pkg, "delivered", "personal")
        send(package(package_type="marketing"), "delivered", "marketing")
        send(unwanted, "dropped", "marketing")
        send(unwanted, "replayed", "marketing")
        send(pkg | {"sender_id": "kif"}, "conflicting", "personal")
        send({}, "rejected")
        send(b"{", "rejected")
        send(b" " * 100_000, "rejected")
        requests = sent.total()

        batch = [package(), pkg, pkg | {"recipient_id": "amy"}, {}, None]
        server.request("POST", "/packages/batch", batch)
        server.request("POST", "/packages/batch", b"{}")
        requests += 2
        sent["delivered", "personal"] += 1
        sent["replayed", "personal"] += 1
        sent["conflicting", "personal"] += 1
        sent["rejected", ""] += 3

        scrape, statistics = Scrape(measured), server.request("GET", "/statistics").json
        shares = [counters_of(worker, measured) for worker in (0, 1)]

    assert scrape.sends() == sent
    assert all(0 < share < sent.total() for share in shares), "one worker handled everything"
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


def test_commits_are_measured(measured: Installation) -> None:
    """Commits are measured by success, duration and number of writes; waiting packages count as
    queued."""
    measured.configure("database.lock_timeout", "500 milliseconds")
    answers: list[int] = []
    with measured.gunicorn(workers=1) as server:

        def send() -> None:
            answers.append(server.request("POST", "/packages", package()).status)

        send()
        before = Scrape(measured)
        clients = [Thread(target=send) for _ in range(8)]
        with measured.database.locked():
            for client in clients:
                client.start()
            wait_until(
                lambda: Scrape(measured).total("galaxy_express_queued_packages") > 0,
                "packages wait",
            )
            wait_until(
                lambda: (
                    Scrape(measured).total("galaxy_express_commit_seconds_count", success="false")
                    > 0
                ),
                "a commit fails",
            )
        for client in clients:
            client.join()
        after = Scrape(measured)

    assert before.total("galaxy_express_queued_packages") == 0
    assert before.series("galaxy_express_commit_seconds_count") == {(("success", "true"),): 1}
    assert before.total("galaxy_express_commit_writes_sum") == 1

    assert after.total("galaxy_express_queued_packages") == 0
    assert after.total("galaxy_express_commit_writes_sum") == answers.count(201)
    commits = after.total("galaxy_express_commit_seconds_count", success="true")
    assert commits == after.total("galaxy_express_commit_writes_count")
    assert 1 < commits < answers.count(201), "queued writes shared a transaction"
    assert after.total("galaxy_express_commit_seconds_sum", success="true") < TIMEOUT

    failed = failed_commits(after)
    assert 1 <= failed <= answers.count(503)
    assert after.total("galaxy_express_commit_seconds_sum", success="false") >= 0.5 * failed


def queued(server: Server) -> int | None:
    """The number of waiting packages that the dashboard shows."""
    number: int | None = server.request("GET", "/dashboard/status").json["queued_packages"]
    return number


def test_dashboard_has_the_queue(measured: Installation) -> None:
    """The dashboard gets the same number as Prometheus, whichever worker answers."""
    measured.configure("database.lock_timeout", "2 seconds")
    with measured.gunicorn(workers=2) as server:
        assert queued(server) == 0
        answers = []
        clients = [
            Thread(target=lambda: answers.append(server.request("POST", "/packages", package())))
            for _ in range(16)
        ]
        with measured.database.locked():
            for client in clients:
                client.start()

            def is_total() -> bool:
                total = Scrape(measured).total("galaxy_express_queued_packages")
                return total > 10 and {queued(server) for _ in range(8)} == {total}

            wait_until(is_total, "packages wait")
        for client in clients:
            client.join()
        wait_until(lambda: queued(server) == 0, "nothing waits")


@pytest.mark.parametrize(("name", "expected"), [("gunicorn", None), ("baseplate-serve", 0)])
def test_queue_without_metrics(installation: Installation, name: str, expected: int | None) -> None:
    """Without metrics, gunicorn's workers don't know each other's queues; a single process knows
    its own."""
    with installation.server(name) as server:
        assert queued(server) == expected


def failed_commits(scrape: Scrape) -> float:
    """The number of failed commits."""
    return scrape.total("galaxy_express_commit_seconds_count", success="false")


@pytest.fixture
def hostile_scrape(measured: Installation) -> Scrape:
    """The metrics after a client has sent the word ``needle`` everywhere it can."""
    with measured.gunicorn(workers=1) as server:
        pkg = package(package_id="needle-1", sender_id="needle", recipient_id="needle")
        server.request("POST", "/packages", pkg)
        server.request("POST", "/packages", pkg)
        server.request("POST", "/packages", pkg | {"sender_id": "another needle"})
        server.request("POST", "/packages", pkg | {"package_type": "needle"})
        server.request("POST", "/packages/batch", [pkg, package(package_type="needle")])
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
        return Scrape(measured)


def test_labels_are_bounded(hostile_scrape: Scrape) -> None:
    """No value from a client becomes a label: no id, path, header, method or unregistered type."""
    assert "needle" not in hostile_scrape.text.lower()
    assert {outcome for outcome, _ in hostile_scrape.sends()} <= {
        "delivered",
        "dropped",
        "replayed",
        "conflicting",
        "rejected",
    }
    assert {name for _, name in hostile_scrape.sends()} <= {"", *PACKAGE_TYPES.names}


def test_unreadable_requests_are_counted(measured: Installation) -> None:
    """Requests that can't be read are counted, and no warning is logged."""
    with measured.gunicorn(workers=1) as server:
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", head("GET /statistics HTTP/9.9")):
            exchange(server.port, [data])
        assert Scrape(measured).total("galaxy_express_unreadable_requests_total") == 2
        assert "WARNING" not in server.log


def test_killed_worker_keeps_its_counts(measured: Installation) -> None:
    """A killed worker's counters stay and its active requests vanish; its successor continues in
    the same files."""
    for timeout in ("database.lock_timeout", "desk.timeout", "server_timeout.default"):
        measured.configure(timeout, "1 minute")
    with measured.gunicorn(workers=2) as server:
        workers = wait_for_workers(server, 2, other_than=set())
        for _ in range(20):
            server.request("POST", "/packages", package())

        def send_until_timeout() -> None:
            with suppress(Unanswered):
                server.request("POST", "/packages", package())

        clients = [Thread(target=send_until_timeout) for _ in range(8)]
        with measured.database.locked():
            for client in clients:
                client.start()
            wait_until(lambda: active_sends(Scrape(measured)) == len(clients), "all of them wait")
            for worker in workers:
                os.kill(worker, SIGKILL)
            for client in clients:
                client.join()
            successors = wait_for_workers(server, 2, other_than=workers)
        server.wait_until_alive()
        after_kill = Scrape(measured)
        files_after_kill = metrics_files(measured)

        server.request("POST", "/packages", package())
        after_one_more = Scrape(measured)

        server.signal(SIGHUP)
        renewed = wait_for_workers(server, 2, other_than=successors)
        server.wait_until_alive()
        after_renewal = Scrape(measured)

        server.signal(SIGHUP)
        wait_for_workers(server, 2, other_than=renewed)
        server.wait_until_alive()
        files_in_the_end = metrics_files(measured)

    assert after_kill.sends() == {("delivered", "personal"): 20}
    assert active_sends(after_kill) == 0
    assert after_one_more.sends() == after_renewal.sends() == {("delivered", "personal"): 21}
    assert files_after_kill <= files_of(2)
    # During a reload there are at most twice as many workers.
    assert files_in_the_end <= files_of(4)


def active_sends(scrape: Scrape) -> float:
    """The number of sends in progress."""
    return scrape.total("http_server_active_requests", http_endpoint="/packages")


def wait_for_workers(server: Server, number: int, other_than: set[int]) -> set[int]:
    """Wait until there are this many workers, all of them new."""
    wait_until(
        lambda: len(server.workers) == number and not server.workers & other_than,
        f"there are {number} new workers",
    )
    return server.workers


# Where metrics are kept


def mapped_folders(server: Server) -> set[Path]:
    """The folders of the metrics files that a server's workers have open."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in server.workers | {server.pid})
    return {Path(path).parent for path in re.findall(r"/\S+_\d+\.db\b", maps)}


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_metrics_are_kept_in_memory(measured: Installation, name: str) -> None:
    """Without a given folder, a server creates one in memory and removes it at exit."""
    measured.environment["PROMETHEUS_MULTIPROC_DIR"] = ""
    with measured.server(name) as server:
        server.request("GET", "/statistics")
        (folder,) = mapped_folders(server)
        assert folder.parent == Path("/dev/shm")  # noqa: S108 - only the parent folder
    assert not folder.exists()


def test_folder_of_a_killed_server_is_removed(measured: Installation) -> None:
    """The next server removes the folders of killed servers, but none in use."""
    del measured.environment["PROMETHEUS_MULTIPROC_DIR"]
    folders: list[Path] = []
    for _ in range(2):
        with measured.gunicorn(workers=1) as server:
            server.request("GET", "/statistics")
            folders += mapped_folders(server)
            server.kill()
    with measured.gunicorn(workers=1) as server:
        measured.environment["GALAXY_EXPRESS_METRICS_BIND"] = str(free_port())
        with measured.baseplate_serve() as other:
            server.request("GET", "/statistics")
            other.request("GET", "/statistics")
            assert all(folder.exists() for folder in mapped_folders(server) | mapped_folders(other))
    assert not any(folder.exists() for folder in folders)


def test_configured_folder_is_kept(measured: Installation) -> None:
    """A folder from the environment is created if necessary, and kept."""
    with measured.gunicorn(workers=1) as server:
        server.request("GET", "/statistics")
        assert mapped_folders(server) == {measured.folder / "metrics"}
    assert list(measured.folder.glob("metrics/counter_*.db"))


def test_deleted_folder_is_recreated(measured: Installation) -> None:
    """If the folder is deleted, workers keep serving and can be killed; their successors count in a
    new folder."""
    with measured.gunicorn(workers=2) as server:
        workers = wait_for_workers(server, 2, other_than=set())
        shutil.rmtree(measured.folder / "metrics")
        assert server.request("POST", "/packages", package()).status == 201
        assert Scrape(measured).sends() == {}
        for worker in workers:
            os.kill(worker, SIGKILL)
        wait_for_workers(server, 2, other_than=workers)
        server.wait_until_alive()
        assert server.request("POST", "/packages", package()).status == 201
        assert Scrape(measured).sends() == {("delivered", "personal"): 1}


def test_unusable_folder_disables_metrics(measured: Installation) -> None:
    """If the folder can't be created, or a file in it is damaged, the service runs without metrics
    and says so."""
    folder = measured.folder / "metrics"
    folder.touch()
    with measured.gunicorn(workers=1) as server:
        assert server.request("POST", "/packages", package()).status == 201
        assert server.log.count("Metrics can't be stored") == 1
        assert "There are no metrics" in Scrape(measured).text
        folder.unlink()
        folder.mkdir()
        for content in (b"", b"garbage" * 100):
            (folder / "counter_7.db").write_bytes(content)
            assert "There are no metrics" in Scrape(measured).text
        assert "Traceback" not in server.log


# Where metrics are read


def test_connections_are_limited(measured: Installation) -> None:
    """Connections to the metrics port don't use up the files that a worker may open."""
    with measured.gunicorn(workers=1) as server, ExitStack() as idle:
        (worker,) = server.workers
        server.request("POST", "/packages", package())  # opens the database
        address = "127.0.0.1", metrics_port(measured)
        before = count_files(worker)
        for _ in range(25):
            idle.enter_context(socket.create_connection(address))
        wait_until(lambda: count_files(worker) > before + 5, "connections are accepted")
        assert server.request("POST", "/packages", package()).status == 201
        assert count_files(worker) < before + 20


def count_files(process: int) -> int:
    """Return how many files a process has open."""
    return len(os.listdir(f"/proc/{process}/fd"))


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_metrics_are_exported_on_the_address_of_the_service(
    measured: Installation, name: str
) -> None:
    """The metrics of a service on loopback are exported on that address only."""
    with measured.server(name):
        with socket.create_server(("127.0.0.2", metrics_port(measured))):
            pass  # the port is free on another address
        assert Scrape(measured).families


def test_port_in_use_stops_gunicorn(measured: Installation) -> None:
    """If the exporter's port is in use, gunicorn doesn't start and says why."""
    port = metrics_port(measured)
    with socket.create_server(("127.0.0.1", port)):
        server = measured.gunicorn()
        server.start()
        assert server.wait() == 1
    assert (
        f"Metrics can't be exported on port {port} of 127.0.0.1 (Address already in use);"
        " choose another address with GALAXY_EXPRESS_METRICS_BIND\n"
    ) in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_invalid_address_stops_the_start(measured: Installation, name: str) -> None:
    """An invalid exporter address stops the start, with a message that names the variable."""
    measured.environment["GALAXY_EXPRESS_METRICS_BIND"] = "6060x"
    server = measured.server(name)
    server.start()
    assert server.wait() == 1
    assert "GALAXY_EXPRESS_METRICS_BIND: must be a port such as 6060" in server.log
    assert "Traceback" not in server.log


def test_baseplate_serve_exports_metrics(measured: Installation) -> None:
    """Baseplate's own server exports the same metrics."""
    with measured.baseplate_serve() as server:
        server.request("POST", "/packages", package())
        server.request("POST", "/packages", {})
        scrape = Scrape(measured)
    assert scrape.sends() == {("delivered", "personal"): 1, ("rejected", ""): 1}
    assert scrape.total("http_server_requests_total", http_endpoint="/packages") == 2
    assert scrape.total("galaxy_express_commit_writes_sum") == 2


# The log


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_full_log_pipe_does_not_block_the_service(measured: Installation, name: str) -> None:
    """If the log pipe is full the service keeps running, and counts dropped lines."""
    server = measured.server(name)
    pipe = measured.folder / f"server-{server.port}.log"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with open(descriptor, "wb", buffering=0) as end, server:
        while end.write(b"x" * 4096):
            pass
        measured.database.reject_inserts("packages")
        statuses = {server.request("POST", "/packages", package()).status for _ in range(50)}
        assert statuses == {500}
        assert server.request("GET", "/statistics").status == 200
        assert Scrape(measured).total("galaxy_express_log_lines_dropped_total") >= 50


# make, in the checkout itself


def make_run(installation: Installation) -> Server:
    """``make run``, not started."""
    if not shutil.which("make"):
        pytest.skip("make isn't installed")
    skip_unless_set_up()
    port = free_port()
    variables = {"BIND": f"127.0.0.1:{port}", "VENV": VENV}
    assignments = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "-C", str(ROOT), "run", *assignments]
    return Server(command, installation.folder, port, installation.environment)


def test_make_run_has_metrics(measured: Installation) -> None:
    """``make run`` prints its addresses, and starts with fresh metrics even after a kill."""
    del measured.environment["PROMETHEUS_MULTIPROC_DIR"]
    scrapes = []
    for _ in range(2):
        with make_run(measured) as server:
            server.request("POST", "/packages", package())
            scrapes.append(Scrape(measured).sends())
            address = f"http://127.0.0.1:{server.port}"
            assert f"{address} (dashboard: {address}/, API: {address}/docs)" in server.log
            server.kill()
    assert scrapes == [{("delivered", "personal"): 1}] * 2


def test_make_run_with_the_metrics_port_in_use(measured: Installation) -> None:
    """If the exporter's port is in use, ``make run`` says so and serves without metrics."""
    port = metrics_port(measured)
    with socket.create_server(("127.0.0.1", port)), make_run(measured) as server:
        assert server.request("POST", "/packages", package()).status == 201
        assert (
            f"Metrics can't be exported on port {port} of 127.0.0.1 (Address already in use);"
            " choose another address with GALAXY_EXPRESS_METRICS_BIND."
            " This server has no metrics.\n"
        ) in server.log
        assert "Traceback" not in server.log
