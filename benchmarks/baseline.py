"""The plain implementation: an ORM session for each request, and a commit.

It has the service's tables, rules, parsing and answers, it is as durable, and it is
served in the same way. What differs is how it gets at the database: as the documentation
of Pyramid and SQLAlchemy shows it. Baseplate's own client for sessions would do the same
with a span and three metrics for each statement, and is slower.
"""

from typing import Any

from baseplate import Baseplate
from baseplate.frameworks.pyramid import BaseplateConfigurator
from baseplate.lib.config import RawConfig
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from sqlalchemy import create_engine, event, exc, func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from galaxy_express import delivery, models
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.web.responses import json_response
from galaxy_express.web.schemas import Schemas, decision_body

_schemas = Schemas(PACKAGE_TYPES)


def make_wsgi_app(app_config: RawConfig) -> Router:
    """Make the WSGI application."""
    baseplate = Baseplate(app_config)
    baseplate.configure_observers()
    sessions = sessionmaker(_make_engine(app_config["database.url"]))

    def open_session(request: Request) -> Session:
        session = sessions()
        request.add_finished_callback(lambda _: session.close())
        return session

    configurator = Configurator()
    configurator.include(BaseplateConfigurator(baseplate).includeme)
    configurator.add_request_method(open_session, "session", reify=True)
    for method, path, view in (
        ("POST", "/packages", send_package),
        ("GET", "/statistics", read_statistics),
        ("GET", "/health", is_healthy),
    ):
        configurator.add_route(view.__name__, path, request_method=method)
        configurator.add_view(view, route_name=view.__name__)
    return configurator.make_wsgi_app()


def _make_engine(url: str) -> Engine:
    if not url.startswith("sqlite:"):
        return create_engine(url, pool_size=10)
    # Pooled, which SQLAlchemy 1.4 doesn't do for a file by itself.
    engine = create_engine(
        url, poolclass=QueuePool, connect_args={"timeout": 5, "check_same_thread": False}
    )
    event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions by itself
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def send_package(request: Request) -> Response:
    """``POST /packages``: decide of a package, once."""
    package = _schemas.parse_package(request.body)
    session = request.session
    while True:
        try:
            outcome = _decide(session, package)
            session.commit()
            break
        except exc.IntegrityError:  # PostgreSQL only: another has inserted the same row
            session.rollback()
    if isinstance(outcome, delivery.Conflict):
        return json_response({"detail": "this package_id was used before"}, 409)
    body = decision_body(outcome.decision)
    if outcome.replayed:
        return json_response(body, 200, ("Idempotent-Replayed", "true"))
    return json_response(body, 201, ("Location", f"/packages/{package.package_id}"))


def _decide(session: Session, package: delivery.Package) -> delivery.SendOutcome:
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("BEGIN IMMEDIATE"))
    earlier = session.get(models.Package, package.package_id)
    if earlier is not None:
        return delivery.replay(package, _decision(earlier))
    package_type = PACKAGE_TYPES[package.package_type]
    said = session.get(models.Preference, (package.recipient_id, package_type.name))
    decision = delivery.decide(package, package_type.is_wanted(said.wanted if said else None))
    session.add(
        models.Package(
            package_id=package.package_id,
            sender_id=package.sender_id,
            recipient_id=package.recipient_id,
            package_type=package.package_type,
            timestamp=package.timestamp,
            status=decision.status.value,
        )
    )
    session.flush()
    _count(session, decision)
    return delivery.SendResult(decision, replayed=False)


def _count(session: Session, decision: delivery.Decision) -> None:
    key = (0, decision.status.value, decision.package.package_type)
    counter = session.get(models.Counter, key, with_for_update=True)
    if counter is None:
        shard, outcome, package_type = key
        counter = models.Counter(shard=shard, outcome=outcome, package_type=package_type, value=0)
        session.add(counter)
    counter.value += 1


def _decision(row: Any) -> delivery.Decision:
    package = delivery.Package(
        row.package_id, row.sender_id, row.recipient_id, row.package_type, row.timestamp
    )
    return delivery.Decision(package, delivery.Status(row.status))


def read_statistics(request: Request) -> Response:
    """``GET /statistics``: the totals."""
    counter = models.Counter
    rows = request.session.execute(
        select(counter.outcome, counter.package_type, func.sum(counter.value)).group_by(
            counter.outcome, counter.package_type
        )
    )
    totals = {(outcome, package_type): int(total) for outcome, package_type, total in rows}
    return json_response(_schemas.statistics_body(totals))


def is_healthy(request: Request) -> Response:
    """``GET /health``: whether the database answers."""
    request.session.execute(select(1))
    return json_response(True)
