"""Tables of PostgreSQL that an operator has altered: nothing is answered that isn't stored."""

from collections import Counter
from functools import partial

import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from tests.backends import Backend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL, MakeApp
from tests.functional.client import ANY, UPDATE, send, totals, update
from tests.functional.test_concurrency import run_concurrently

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)


@pytest.fixture(params=["postgresql", "partitioned"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """PostgreSQL with its tables, with and without partitions."""
    altered: Backend = request.getfixturevalue(request.param)
    create_schema(altered.config)
    return altered


@pytest.fixture
def app(backend: Backend, make_app: MakeApp) -> TestApp:
    """A service that was started before the tables were altered."""
    started: TestApp = make_app()
    return started


def leave_out(backend: Backend, table: str, condition: str = "true") -> None:
    """Make the database leave out new rows of a table, without an error."""
    backend.rows(
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    backend.rows(
        f"CREATE TRIGGER leave_out BEFORE INSERT ON {table} FOR EACH ROW"
        f" WHEN ({condition}) EXECUTE FUNCTION leave_out()"
    )


@pytest.mark.parametrize("table", ["packages", "counters"])
def test_send_that_is_not_stored(app: TestApp, backend: Backend, table: str) -> None:
    """A send whose rows a trigger leaves out gets a 503, and nothing is stored or counted."""
    leave_out(backend, table)
    assert send(app, 503).json["code"] == "unavailable"
    assert backend.stored() == backend.counted() == {}
    backend.rows(f"DROP TRIGGER leave_out ON {table}")
    send(app)
    assert totals(app)[0] == 1


@pytest.mark.parametrize("table", ["preferences", "preference_updates"])
def test_update_that_is_not_stored(app: TestApp, backend: Backend, table: str) -> None:
    """An update whose rows a trigger leaves out gets a 503, and changes nothing."""
    leave_out(backend, table)
    assert update(app, UPDATE, status=503).json["code"] == "unavailable"
    assert app.get("/recipients/leela/preferences").json["updated_at"] is None
    assert app.get("/recipients/leela/preferences/history").json["updates"] == []


def test_send_that_is_not_stored_fails_alone(app: TestApp, backend: Backend) -> None:
    """If a trigger leaves out some packages, the others of their transaction are recorded."""
    leave_out(backend, "packages", "new.package_id LIKE 'lost%'")
    names = [*(f"kept-{number}" for number in range(10)), "lost-1", "lost-2"]
    answers = run_concurrently([partial(send, app, ANY, package_id=name) for name in names])
    assert Counter(answer.status_int for answer in answers) == {201: 10, 503: 2}
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 10}


def test_send_that_a_trigger_rejects_fails_alone(app: TestApp, backend: Backend) -> None:
    """If a trigger raises an error for one package, the others of its transaction are recorded."""
    backend.rows(
        "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.package_id = 'lost' THEN RAISE 'no'; END IF; RETURN NEW; END$$"
    )
    backend.rows(
        "CREATE TRIGGER object BEFORE INSERT ON packages FOR EACH ROW EXECUTE FUNCTION object()"
    )
    names = ["kept-1", "lost", "kept-2"]
    answers = run_concurrently([partial(send, app, ANY, package_id=name) for name in names])
    assert [answer.status_int for answer in answers] == [201, 503, 201]


def test_send_that_is_stored_with_another_id(app: TestApp, backend: Backend) -> None:
    """A send that a trigger stores with another id gets a 503, and nothing is stored."""
    backend.rows(
        "CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.package_id := upper(NEW.package_id); RETURN NEW; END'"
    )
    backend.rows(
        "CREATE TRIGGER rename BEFORE INSERT ON packages FOR EACH ROW EXECUTE FUNCTION rename()"
    )
    send(app, 503, package_id="lower")
    assert backend.stored() == backend.counted() == {}
