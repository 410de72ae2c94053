"""Concurrent load, and an audit that the responses match what is recorded."""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from types import TracebackType
from typing import Any

from tests.backends import Backend
from tests.servers.http_client import Answer, Connection, Unanswered, package
from tests.servers.running import WAIT_SECONDS, Server, wait_until

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECIPIENTS = 7


@dataclass(frozen=True)
class Job:
    """A request to send.

    :param wanted: the statuses that are expected.
    """

    method: str
    path: str
    body: Any
    wanted: frozenset[int] = frozenset({200})

    @property
    def is_update(self) -> bool:
        """Whether it updates preferences."""
        return self.method == "PUT"

    @property
    def may_be_rejected(self) -> bool:
        """Whether it may be counted as rejected."""
        return not self.wanted.isdisjoint({400, 409})


@dataclass(frozen=True)
class Exchange:
    """A request that was sent, and its outcome.

    :param answer: ``None`` if there was none.
    :param tries: how often it was sent.
    :param seconds: how long it took, over all tries.
    :param ended: when it ended, by the monotonic clock.
    """

    job: Job
    answer: Answer | None
    tries: int = 1
    seconds: float = 0.0
    ended: float = 0.0

    @property
    def is_successful(self) -> bool:
        """Whether the response has an expected status."""
        return self.answer is not None and self.answer.status in self.job.wanted

    @property
    def is_rejected(self) -> bool:
        """Whether it was rejected, as expected."""
        return self.is_successful and self.answer is not None and self.answer.status >= 400

    @property
    def is_unavailable(self) -> bool:
        """Whether the response is a 503 problem with ``Retry-After``."""
        return (
            self.answer is not None
            and self.answer.status == 503
            and self.answer.is_problem
            and "Retry-After" in self.answer.headers
        )

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """The decisions in the response."""
        if self.answer is None or self.answer.status >= 400 or self.job.method != "POST":
            return []
        decided = self.answer.json
        return decided if isinstance(decided, list) else [decided]


def send(pkg: dict[str, str]) -> Job:
    """Send a package, for the first time or again."""
    return Job("POST", "/packages", pkg, frozenset({200, 201}))


def claim(pkg: dict[str, str]) -> Job:
    """Send a package whose id may belong to another package."""
    return Job("POST", "/packages", pkg, frozenset({200, 201, 409}))


def send_batch(packages: list[dict[str, str]]) -> Job:
    """Send packages, some of which may have been sent before."""
    return Job("POST", "/packages/batch", packages)


def update(recipient: str, moment: int, personal: bool, marketing: bool) -> Job:
    """Update preferences.

    :param moment: the timestamp, in microseconds since 1970.
    """
    return Job(
        "PUT",
        f"/recipients/{recipient}/preferences",
        {
            "timestamp": (EPOCH + timedelta(microseconds=moment)).isoformat(),
            "personal_preference": personal,
            "marketing_preference": marketing,
        },
    )


MALFORMED = Job("POST", "/packages", b"{", frozenset({400}))


def numbered_package(name: str, number: int) -> dict[str, str]:
    """The package for a name and number; the same one for the same arguments."""
    return package(
        package_id=f"{name}-{number}",
        recipient_id=f"recipient-{number % RECIPIENTS}",
        package_type="marketing" if number % 3 else "personal",
    )


def mixed_jobs(client: int, name: str = "package") -> Iterator[Job]:
    """An endless mix of jobs; other clients send the same packages."""
    rng = random.Random(client)
    for turn in count():
        # Packages that others send now, that they sent earlier, or that nobody else sends.
        numbers = [turn, rng.randrange(turn + 1), (client + 1) * 1_000_000 + turn]
        kind = rng.random()
        if kind < 0.7:
            yield send(numbered_package(name, rng.choice(numbers)))
        elif kind < 0.8:
            start = rng.choice(numbers)
            packages = [numbered_package(name, start + n) for n in range(20)]
            rng.shuffle(packages)
            yield send_batch(packages)
        elif kind < 0.95:
            recipient = f"recipient-{rng.randrange(RECIPIENTS)}"
            moment = time.time_ns() // 1000 * 100 + client
            yield update(recipient, moment, rng.random() < 0.5, rng.random() < 0.5)
        else:
            yield MALFORMED


class Load:
    """Concurrent clients, each in a thread with a persistent connection.

    If the server may have closed an idle connection, the client retries once on a new one,
    as HTTP allows.

    :param leave_when_closed: whether a client stops without a retry when the server closes
        its connection; otherwise it reconnects.
    """

    def __init__(self, *, leave_when_closed: bool = False) -> None:
        self.exchanges: list[Exchange] = []
        self._leave_when_closed = leave_when_closed
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(max_workers=64)
        self._clients: list[Future[None]] = []

    def __enter__(self) -> "Load":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def add_client(self, port: int, jobs: Iterable[Job]) -> None:
        """Start another client that sends jobs to the server on a port."""
        self._clients.append(self._threads.submit(self._work, port, jobs))

    def _work(self, port: int, jobs: Iterable[Job]) -> None:
        with Connection(port) as connection:
            for job in jobs:
                if self._stopped.is_set():
                    return
                exchange = self._exchange(connection, job)
                self.exchanges.append(exchange)
                answer = exchange.answer
                if self._leave_when_closed and (answer is None or answer.is_last):
                    return
                if answer is None or answer.status == 503:
                    time.sleep(0.2)  # don't flood an unavailable server

    def _exchange(self, connection: Connection, job: Job) -> Exchange:
        start = time.monotonic()
        tries = 0
        answer = None
        may_try = True
        while answer is None and may_try:
            tries += 1
            try:
                answer = connection.request(job.method, job.path, job.body)
            except Unanswered as unanswered:
                # A new connection is never idle, so there is at most one retry.
                may_try = unanswered.may_be_idle and not self._leave_when_closed
        end = time.monotonic()
        return Exchange(job, answer, tries, end - start, end)

    def wait_for(self, number: int, matching: Callable[[Exchange], bool] | None = None) -> None:
        """Wait for this many more matching exchanges (by default, successful ones)."""
        matching = matching or (lambda exchange: exchange.is_successful)
        start = len(self.exchanges)

        def have_arrived() -> bool:
            return sum(map(matching, self.exchanges[start:])) >= number

        wait_until(have_arrived, f"{number} more requests")

    def wait(self) -> None:
        """Wait until all clients have finished their jobs or left."""
        for client in self._clients:
            client.result(WAIT_SECONDS)

    def stop(self) -> None:
        """Start no further jobs, and wait for those in progress."""
        self._stopped.set()
        self.wait()
        self._threads.shutdown()


def finish(exchanges: list[Exchange], server: Server) -> list[Exchange]:
    """Repeat unfinished jobs one by one; return all exchanges."""
    unfinished = [exchange.job for exchange in exchanges if not exchange.is_successful]
    return exchanges + [Exchange(job, _retry_until_available(server, job)) for job in unfinished]


def _retry_until_available(server: Server, job: Job) -> Answer:
    # A worker may only notice a lost database connection at its next request.
    answers: list[Answer] = []

    def is_successful() -> bool:
        answers.append(server.request(job.method, job.path, job.body))
        return answers[-1].status != 503

    wait_until(is_successful, f"{job} is not answered with 503")
    assert answers[-1].status in job.wanted
    return answers[-1]


def audit(exchanges: list[Exchange], database: Backend, *servers: Server) -> None:
    """Assert that responses, stored rows and counters agree."""
    _audit_decisions(exchanges, database)
    _audit_preferences(exchanges, database)
    _audit_counters(exchanges, database, servers)


def _audit_decisions(exchanges: list[Exchange], database: Backend) -> None:
    stored = {
        row[0]: row
        for row in database.rows(
            "SELECT package_id, sender_id, recipient_id, package_type, status FROM packages"
        )
    }
    created: Counter[str] = Counter()
    for exchange in exchanges:
        for decision in exchange.decisions:
            returned = tuple(
                decision[name]
                for name in ("package_id", "sender_id", "recipient_id", "package_type", "status")
            )
            assert stored.get(decision["package_id"]) == returned
            if exchange.answer and exchange.answer.status == 201:
                created[decision["package_id"]] += 1
    assert set(created.values()) <= {1}, "a package was decided twice"


def _audit_preferences(exchanges: list[Exchange], database: Backend) -> None:
    stored = {
        (recipient, package_type): (moment, bool(wanted))
        for recipient, package_type, moment, wanted in database.rows(
            "SELECT recipient_id, package_type, timestamp, wanted FROM preferences"
        )
    }
    # All updates that were sent, answered or not, and the newest acknowledged one.
    sent: dict[tuple[str, str], set[tuple[int, bool]]] = defaultdict(set)
    acknowledged: dict[tuple[str, str], int] = defaultdict(int)
    for exchange in exchanges:
        if exchange.job.is_update:
            recipient = exchange.job.path.split("/")[2]
            body = exchange.job.body
            age = datetime.fromisoformat(body["timestamp"]) - EPOCH
            moment = age // timedelta(microseconds=1)
            for package_type in ("personal", "marketing"):
                key = recipient, package_type
                sent[key].add((moment, body[f"{package_type}_preference"]))
                if exchange.is_successful:
                    acknowledged[key] = max(acknowledged[key], moment)
    assert stored.keys() <= sent.keys()
    assert all(preference in sent[key] for key, preference in stored.items())
    assert all(stored[key][0] >= moment for key, moment in acknowledged.items())


def _audit_counters(
    exchanges: list[Exchange], database: Backend, servers: Iterable[Server]
) -> None:
    rows = Counter(database.rows("SELECT status, package_type FROM packages"))
    counted = {
        (outcome, package_type): int(total)
        for outcome, package_type, total in database.rows(
            "SELECT outcome, package_type, sum(value) FROM counters GROUP BY outcome, package_type"
        )
    }
    rejected = counted.pop(("rejected", ""), 0)
    assert counted == rows, "the counters differ from the rows"

    # A retried request may have been counted at each try.
    rejected_exchanges = [exchange for exchange in exchanges if exchange.is_rejected]
    may_be_rejected = [
        exchange
        for exchange in exchanges
        if exchange.is_rejected or (exchange.job.may_be_rejected and not exchange.is_successful)
    ]
    assert (
        len(rejected_exchanges) <= rejected <= sum(exchange.tries for exchange in may_be_rejected)
    )

    for server in servers:
        statistics = _retry_until_available(server, Job("GET", "/statistics", None)).json
        assert statistics["requests_rejected"] == rejected
        assert {
            (outcome, package_type): total
            for package_type, totals in statistics["by_type"].items()
            for outcome, total in totals.items()
            if total
        } == rows
