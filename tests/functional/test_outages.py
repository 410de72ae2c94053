"""If the database is unavailable, locked or slow, requests are 503 and can be retried."""

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from prometheus_client import REGISTRY
from webtest import TestApp, TestResponse

from galaxy_express.models import create_schema
from galaxy_express.web.timeouts import TimeoutObserver
from tests.backends import Backend, SQLiteBackend
from tests.conftest import MakeApp, OpenDatabase
from tests.functional.client import (
    ANY,
    DECISION,
    PACKAGE,
    UPDATE,
    baseplate_of,
    problem,
    read,
    send,
    send_batch,
    totals,
    update,
)

# Tests don't wait for long, and don't depend on having waited long enough.
IMPATIENT = {"database.lock_timeout": "50 milliseconds"}
# Less than the 50 ms for which a group first waits for a lock, so the lock's error comes later.
HASTY = {"desk.timeout": "20 milliseconds"}

READS = [
    "/packages/pkg-0",
    "/recipients/leela/preferences",
    "/statistics",
    "/health",
    "/dashboard/status",
]


@pytest.fixture
def impatient_app(backend: Backend, make_app: MakeApp) -> TestApp:
    """An application with one package and a short timeout."""
    create_schema(backend.config)
    app = make_app(IMPATIENT)
    send(app, package_id="pkg-0")
    return app


def assert_unavailable(answer: TestResponse) -> None:
    """Assert that a response is 503 with ``Retry-After``."""
    body = problem(answer)
    # A missing file can't be distinguished from one that was never created.
    assert body.pop("detail") in {
        "the database is unavailable; a retry is safe",
        "the database is not set up (make migratedb); a retry is safe",
    }
    assert body == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "code": "unavailable",
    }
    assert answer.headers["Retry-After"] == "1"


def test_reads_during_an_outage(backend: Backend, impatient_app: TestApp) -> None:
    """During an outage reads and readiness are 503, and liveness is 200."""
    with backend.unavailable():
        for path in READS:
            assert_unavailable(impatient_app.get(path, status=503))
        assert impatient_app.get("/health?type=liveness").json is True
    for path in READS:
        impatient_app.get(path, status=200)


def test_writes_during_an_outage(backend: Backend, impatient_app: TestApp) -> None:
    """During an outage writes are 503; a package resent afterwards is decided once."""
    with backend.unavailable():
        for _ in range(2):
            assert_unavailable(send(impatient_app, status=503))
            assert_unavailable(send_batch(impatient_app, PACKAGE, status=503))
            assert_unavailable(update(impatient_app, UPDATE, status=503))
    wait_until_ready(impatient_app)
    assert totals(impatient_app) == (1, 0, 0)
    assert read(impatient_app, "pkg-0").json == DECISION | {"package_id": "pkg-0"}
    assert send(impatient_app).json == DECISION
    assert update(impatient_app, UPDATE).json["applied"]
    assert totals(impatient_app) == (2, 0, 0)


def wait_until_ready(app: TestApp) -> None:
    """Wait until the service has noticed that its database is back."""
    with gevent.Timeout(10):
        while app.get("/health", status=ANY).status_int != 200:
            gevent.sleep(0.01)


def test_writes_while_the_database_is_locked(backend: Backend, impatient_app: TestApp) -> None:
    """A write that gets no lock in time is 503, and nothing is recorded or counted."""
    with backend.locked():
        assert_unavailable(send(impatient_app, status=503))
        assert_unavailable(send_batch(impatient_app, PACKAGE, {}, status=503))
        assert_unavailable(update(impatient_app, UPDATE, status=503))
        # The rejection can't be counted, so the request isn't rejected.
        assert_unavailable(send(impatient_app, status=503, sender_id=""))
    assert totals(impatient_app) == (1, 0, 0)
    assert impatient_app.get("/recipients/leela/preferences").json["updated_at"] is None
    assert send(impatient_app).json == DECISION


def test_writes_while_another_instance_hangs(
    backend: Backend, make_app: MakeApp, open_database: OpenDatabase
) -> None:
    """A send that waits for a hanging instance is 503; a retry gets that instance's decision."""
    create_schema(backend.config)
    app = make_app(IMPATIENT | {"desk.timeout": "100 milliseconds"})
    with open_database().transaction() as connection:
        connection.execute(
            "INSERT INTO packages"
            " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
            " VALUES ('pkg-1', 'zap', 'leela', 'personal', 0, 'dropped')"
        )
        problem(send(app, status=503))
    assert send(app, status=200).json["status"] == "dropped"


def test_reads_while_the_database_is_locked(backend: Backend, impatient_app: TestApp) -> None:
    """A write by another process doesn't block reads or retries of decided packages."""
    with backend.locked():
        for path in READS:
            impatient_app.get(path, status=200)
        send(impatient_app, package_id="pkg-0", status=200)


@contextmanager
def failing_writes(backend: Backend) -> Iterator[None]:
    """Let all writes fail, and reads succeed."""
    if isinstance(backend, SQLiteBackend):
        with backend.locked():
            yield
        return
    backend.rows(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"
    )
    backend.rows("CREATE TRIGGER fail BEFORE INSERT ON counters EXECUTE FUNCTION fail()")
    yield
    backend.rows("DROP FUNCTION fail CASCADE")


def test_readiness_while_writes_fail(backend: Backend, impatient_app: TestApp) -> None:
    """After a failed commit the service isn't ready until writes succeed again, which it finds out
    without a send, and without changing anything."""
    with failing_writes(backend):
        assert_unavailable(send(impatient_app, status=503))
        for _ in range(3):
            assert_unavailable(impatient_app.get("/health", status=503))
        assert impatient_app.get("/health?type=liveness").json is True
    impatient_app.get("/health", status=200)
    assert totals(impatient_app) == (1, 0, 0)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_readiness_while_the_counters_are_locked(
    backend: Backend, impatient_app: TestApp, caplog: pytest.LogCaptureFixture
) -> None:
    """While another transaction locks the counters, which every send needs, the service isn't
    ready, and the log says why; afterwards it is, without a send."""
    with backend.transaction() as other:
        other.execute("LOCK TABLE counters IN EXCLUSIVE MODE")
        assert_unavailable(send(impatient_app, status=503))
        assert_unavailable(impatient_app.get("/health", status=503))
    assert "another transaction locks the counters (see pg_stat_activity)" in caplog.text
    wait_until_ready(impatient_app)
    assert totals(impatient_app) == (1, 0, 0)


def test_readiness_while_the_counters_are_left_out(
    backend: Backend, impatient_app: TestApp
) -> None:
    """If several sends in a row fail, each by itself, readiness finds out whether all do."""
    if isinstance(backend, SQLiteBackend):
        backend.rows(
            "CREATE TRIGGER leave_out BEFORE UPDATE ON counters BEGIN SELECT raise(IGNORE); END"
        )
        backend.rows(
            "CREATE TRIGGER leave_out_new BEFORE INSERT ON counters BEGIN SELECT raise(IGNORE); END"
        )
    else:
        backend.rows("CREATE RULE leave_out AS ON INSERT TO counters DO INSTEAD NOTHING")
    for number in range(3):
        send(impatient_app, 503, package_id=f"lost-{number}")
    for _ in range(2):
        assert_unavailable(impatient_app.get("/health", status=503))
    if isinstance(backend, SQLiteBackend):
        backend.rows("DROP TRIGGER leave_out")
        backend.rows("DROP TRIGGER leave_out_new")
    else:
        backend.rows("DROP RULE leave_out ON counters")
    impatient_app.get("/health", status=200)
    assert totals(impatient_app) == (1, 0, 0)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_readiness_while_one_package_is_locked(backend: Backend, impatient_app: TestApp) -> None:
    """A send that fails because another transaction holds a lock on its package doesn't make the
    service unready."""
    with backend.transaction() as cursor:
        cursor.execute(
            "INSERT INTO packages"
            " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
            " VALUES ('pkg-1', 'zap', 'leela', 'personal', 0, 'dropped')"
        )
        send(impatient_app, package_id="pkg-1", status=503)
        impatient_app.get("/health", status=200)


def test_read_only_database(backend: Backend, impatient_app: TestApp) -> None:
    """On a read-only database reads work; writes are 503 and work again afterwards."""
    with backend.read_only():
        with gevent.Timeout(10):
            while read(impatient_app, "pkg-0", ANY).status_int == 503:
                gevent.sleep(0.01)
        assert_unavailable(send(impatient_app, status=503))
        assert read(impatient_app, "pkg-0").json == DECISION | {"package_id": "pkg-0"}
    wait_until_ready(impatient_app)
    assert totals(impatient_app) == (1, 0, 0)


def test_write_that_waits_in_the_queue_for_too_long(backend: Backend, make_app: MakeApp) -> None:
    """A write that has waited in the queue for the maximum time is 503."""
    create_schema(backend.config)
    app = make_app(HASTY)
    with backend.locked():
        answer = send(app, status=503)
    assert problem(answer)["detail"] == "the service is overloaded; a retry is safe"
    assert answer.headers["Retry-After"] == "1"


def test_full_queue(backend: Backend, make_app: MakeApp) -> None:
    """If the queue is full, a request is 503 immediately, and queued writes aren't lost."""
    create_schema(backend.config)
    app = make_app({"desk.max_queued": "3"})
    with backend.locked():
        under_way = gevent.spawn(send, app, package_id="under way")
        gevent.sleep(0.05)
        waiting = [gevent.spawn(send, app, package_id=str(number)) for number in range(3)]
        gevent.sleep(0.05)
        answer = send(app, status=503)
        assert problem(answer)["code"] == "overloaded"
        assert answer.headers["Retry-After"] == "1"
    gevent.joinall([under_way, *waiting], timeout=10, raise_error=True)
    assert totals(app) == (4, 0, 0)
    assert send(app).json == DECISION


@pytest.mark.parametrize("scope", ["default", "by_endpoint.send_package"])
def test_request_that_takes_too_long(backend: Backend, make_app: MakeApp, scope: str) -> None:
    """A request over the timeout of its endpoint, or else over the default one, is 503."""
    create_schema(backend.config)
    app = make_app()
    settings = {"server_timeout.default": "1 hour", f"server_timeout.{scope}": "50 milliseconds"}
    baseplate_of(app).register(TimeoutObserver.from_config(settings))
    with backend.locked():
        answer = send(app, status=503)
    assert problem(answer)["detail"] == "the request took too long; a retry is safe"
    assert answer.headers["Retry-After"] == "1"


CODES = ("unavailable", "overloaded", "timed_out", "internal")


def failed_requests() -> list[float]:
    """The numbers of failed requests in this process, by code."""
    name = "galaxy_express_failed_requests_total"
    return [REGISTRY.get_sample_value(name, {"code": code}) or 0.0 for code in CODES]


def test_failed_requests_are_counted_by_code(backend: Backend, make_app: MakeApp) -> None:
    """A 503 or 500 is counted once, by the code of its problem; a client error isn't."""
    create_schema(backend.config)
    impatient_app = make_app(IMPATIENT)
    overloaded_app = make_app(HASTY)
    slow_app = make_app()
    settings = {"server_timeout.default": "50 milliseconds"}
    baseplate_of(slow_app).register(TimeoutObserver.from_config(settings))
    before = failed_requests()

    send(impatient_app, package_type="unknown", status=422)
    assert failed_requests() == before
    counts = []
    for number, app in enumerate((impatient_app, overloaded_app, slow_app)):
        with backend.locked():
            send(app, package_id=str(number), status=503)
        counts.append(failed_requests())
    backend.reject_inserts("packages")
    send(impatient_app, package_id="failing", status=500)
    counts.append(failed_requests())

    for index, count in enumerate(counts):
        expected = [value + (position <= index) for position, value in enumerate(before)]
        assert count == expected, f"after {CODES[index]}"
