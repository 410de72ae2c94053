"""``GET /health``: Baseplate's probes."""

import logging

import pytest
from baseplate.server import SERVER_STATE, ServerLifecycle
from prometheus_client import REGISTRY
from webtest import TestApp

from galaxy_express.models import create_schema, drop_schema
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import problem

# Baseplate's probes, by name in any case, and by number.
READINESS = ["", "?", "?type=readiness", "?type=READINESS", "?type=1", "?type=&x=1"]
LIVENESS = ["?type=liveness", "?type=Liveness", "?type=2", "?x=1&type=liveness"]
STARTUP = ["?type=startup", "?type=STARTUP", "?type=3"]
# Baseplate treats unknown types as readiness.
UNKNOWN = ["?type=unknown", "?type=0", "?type=4", "?type=%FF", "?liveness", "?type=live"]

ASKING_THE_DATABASE = [*READINESS, *UNKNOWN]
ASKING_NOTHING = [*LIVENESS, *STARTUP]


def test_healthy_service(app: TestApp) -> None:
    """Every probe returns 200 with true."""
    for query in [*ASKING_THE_DATABASE, *ASKING_NOTHING]:
        answer = app.get(f"/health{query}")
        assert answer.status == "200 OK"
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json is True


@pytest.fixture
def app_without_tables(backend: Backend, make_app: MakeApp) -> TestApp:
    """An application on a database without tables."""
    create_schema(backend.config)
    drop_schema(backend.config)
    return make_app()


def test_readiness_checks_the_database(app_without_tables: TestApp) -> None:
    """Without a schema the service isn't ready: 503 with ``Retry-After``."""
    for query in ASKING_THE_DATABASE:
        answer = app_without_tables.get(f"/health{query}", status=503)
        assert problem(answer) == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "code": "unavailable",
            "detail": "the database is not set up (make migratedb); a retry is safe",
        }
        assert answer.headers["Retry-After"] == "1"
        assert REGISTRY.get_sample_value("galaxy_express_unready_workers") == 1


def test_liveness_checks_nothing(app_without_tables: TestApp) -> None:
    """A service without a database is alive, since a restart wouldn't help."""
    for query in ASKING_NOTHING:
        assert app_without_tables.get(f"/health{query}").json is True


def test_schema_created_later(backend: Backend, app_without_tables: TestApp) -> None:
    """Once the tables exist the service is ready, without a restart."""
    app_without_tables.get("/health", status=503)
    create_schema(backend.config)
    assert app_without_tables.get("/health").json is True
    assert REGISTRY.get_sample_value("galaxy_express_unready_workers") == 0


def test_service_is_not_ready_during_shutdown(
    app: TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During shutdown the service isn't ready, so that it gets no new requests."""
    monkeypatch.setattr(SERVER_STATE, "state", ServerLifecycle.SHUTTING_DOWN)
    answer = app.get("/health?type=readiness", status=503)
    assert "shutting down" in problem(answer)["detail"]
    assert app.get("/health?type=liveness").json is True


def test_start_without_a_schema(
    backend: Backend, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Starting without tables logs which are missing, and how to create them."""
    create_schema(backend.config)
    backend.rows("DROP TABLE counters")
    with caplog.at_level(logging.ERROR):
        make_app()
    (record,) = caplog.records
    assert "lacks the tables counters" in record.getMessage()
    assert "make migratedb" in record.getMessage()


def test_start_without_a_database(
    backend: Backend, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database is unavailable at startup, this is logged, and the service starts."""
    create_schema(backend.config)
    with backend.unavailable(), caplog.at_level(logging.ERROR):
        app = make_app()
    (record,) = caplog.records
    assert "is unavailable" in record.getMessage()
    assert app.get("/health").json is True


def test_start_with_a_schema(
    backend: Backend, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database and its tables are usable, nothing is logged."""
    create_schema(backend.config)
    with caplog.at_level(logging.WARNING):
        make_app()
    assert caplog.records == []
