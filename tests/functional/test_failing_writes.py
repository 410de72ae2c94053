"""Writes that fail in the database, and the others that share their transaction."""

from collections import Counter
from functools import partial

import pytest

from galaxy_express.models import create_schema
from tests.backends import Backend, SQLiteBackend
from tests.conftest import MakeApp
from tests.functional.client import ANY, UPDATE, send, send_batch, totals, update
from tests.functional.test_concurrency import run_concurrently

# The ids and the recipient that the database rejects.
POISON = ("poison-1", "poison-2")


@pytest.fixture
def poisoned(backend: Backend) -> Backend:
    """A database that rejects a few rows."""
    create_schema(backend.config)
    ids = ", ".join(f"'{poison}'" for poison in POISON)
    for table, column in (("packages", "package_id"), ("preferences", "recipient_id")):
        if isinstance(backend, SQLiteBackend):
            backend.rows(
                f"CREATE TRIGGER reject_{table} BEFORE INSERT ON {table}"
                f" WHEN new.{column} IN ({ids}) BEGIN SELECT raise(ABORT, 'rejected'); END"
            )
        else:
            backend.rows(
                f"ALTER TABLE {table} ADD CONSTRAINT reject_{table} CHECK ({column} NOT IN ({ids}))"
            )
    return backend


def test_failing_write_fails_alone(poisoned: Backend, make_app: MakeApp) -> None:
    """Requests that share a transaction with failing ones succeed, and are stored and counted."""
    app = make_app()
    good = [partial(send, app, package_id=f"good-{number}") for number in range(20)]
    bad = [partial(send, app, ANY, package_id=poison) for poison in POISON]
    updates = [partial(update, app, UPDATE, f"recipient-{number}") for number in range(3)]
    bad_update = partial(update, app, UPDATE, POISON[0], ANY)
    answers = run_concurrently([*good[:10], bad[0], *updates, bad_update, bad[1], *good[10:]])
    assert Counter(answer.status_int for answer in answers) == {201: 20, 200: 3, 503: 3}
    assert totals(app) == (20, 0, 0)
    assert poisoned.stored() == poisoned.counted() == {("delivered", "personal"): 20}


def test_failing_batch_fails_whole(poisoned: Backend, make_app: MakeApp) -> None:
    """A batch is recorded completely or not at all, and doesn't affect other requests."""
    app = make_app()
    items = [{"package_id": package_id} for package_id in ("batch-1", POISON[0], "batch-2")]
    package = {
        "timestamp": "2142-03-01T12:00:00Z",
        "sender_id": "zap",
        "recipient_id": "leela",
        "package_type": "personal",
    }
    batch = partial(send_batch, app, *(package | item for item in items), status=ANY)
    answers = run_concurrently([partial(send, app, package_id="alone"), batch])
    assert [answer.status_int for answer in answers] == [201, 503]
    assert poisoned.stored() == poisoned.counted() == {("delivered", "personal"): 1}


def test_readiness_after_a_write_that_is_left_out(backend: Backend, make_app: MakeApp) -> None:
    """If a trigger leaves out one package, the database isn't suspected: the next readiness probe
    succeeds without a write."""
    create_schema(backend.config)
    if isinstance(backend, SQLiteBackend):
        backend.rows(
            "CREATE TRIGGER leave_out BEFORE INSERT ON packages WHEN new.package_id = 'lost'"
            " BEGIN SELECT raise(IGNORE); END"
        )
    else:
        backend.rows(
            "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'"
        )
        backend.rows(
            "CREATE TRIGGER leave_out BEFORE INSERT ON packages FOR EACH ROW"
            " WHEN (new.package_id = 'lost') EXECUTE FUNCTION leave_out()"
        )
    app = make_app()
    send(app, 503, package_id="lost")
    assert app.get("/health").json is True
    assert backend.counted() == {}
