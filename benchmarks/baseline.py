"""The plain implementation: one ORM session and one commit per request.

It has the rules, responses and durability of the service, and is written in the style of the
documentation of Pyramid and SQLAlchemy. It has its own code and tables, so that it stays the same
while the service changes. Baseplate's session client would add a span and three metrics per
statement, and is slower.
"""

import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from baseplate import Baseplate
from baseplate.frameworks.pyramid import BaseplateConfigurator
from psycogreen.gevent import patch_psycopg
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Text,
    create_engine,
    event,
    exc,
    func,
    select,
    text,
)
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, declarative_base, sessionmaker
from sqlalchemy.pool import QueuePool

DATABASE_URL = "BASELINE_DATABASE_URL"

PACKAGE_TYPES = ("marketing", "personal")

# SQLAlchemy 1.4 has no types.
Base: Any = declarative_base()


class Package(Base):  # type: ignore[misc]
    """A package and its decision."""

    __tablename__ = "packages"

    package_id = Column(Text, primary_key=True)
    sender_id = Column(Text, nullable=False)
    recipient_id = Column(Text, nullable=False)
    package_type = Column(Text, nullable=False)
    timestamp = Column(DateTime, nullable=False)
    status = Column(Text, nullable=False)


class Preference(Base):  # type: ignore[misc]
    """Whether a recipient wants a type of package."""

    __tablename__ = "preferences"

    recipient_id = Column(Text, primary_key=True)
    package_type = Column(Text, primary_key=True)
    wanted = Column(Boolean, nullable=False)


class Counter(Base):  # type: ignore[misc]
    """A running total."""

    __tablename__ = "counters"

    status = Column(Text, primary_key=True)
    package_type = Column(Text, primary_key=True)
    value = Column(BigInteger, nullable=False)


Identifier = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class Submission(BaseModel):
    """The body of ``POST /packages``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    timestamp: AwareDatetime
    sender_id: Identifier
    recipient_id: Identifier
    package_id: Identifier
    package_type: Literal["marketing", "personal"]


def application() -> Router:
    """Make the WSGI application, as gunicorn calls it.

    The URL of the database is in the environment variable ``BASELINE_DATABASE_URL``.
    """
    patch_psycopg()
    baseplate = Baseplate(
        {"baseplate.service_name": "baseline", "server_timeout.default": "15 seconds"}
    )
    baseplate.configure_observers()
    sessions = sessionmaker(_make_engine(os.environ[DATABASE_URL]))

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


def create_tables(database_url: str) -> None:
    """Create the tables in an empty database."""
    engine = _make_engine(database_url)
    Base.metadata.create_all(engine)
    engine.dispose()


def _make_engine(url: str) -> Engine:
    if not url.startswith("sqlite:"):
        return create_engine(url, pool_size=10)
    # SQLAlchemy 1.4 doesn't pool connections to a file by default.
    engine = create_engine(
        url, poolclass=QueuePool, connect_args={"timeout": 5, "check_same_thread": False}
    )
    event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # otherwise the driver begins transactions implicitly
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def send_package(request: Request) -> Response:
    """``POST /packages``: decide a package."""
    try:
        package = Submission.model_validate_json(request.body)
    except ValidationError as error:
        return _json({"detail": str(error)}, 422)
    while True:
        try:
            body, status, headers = _decide(request.session, package)
            request.session.commit()
            return _json(body, status, headers)
        except exc.IntegrityError:  # PostgreSQL only: another worker has inserted the same row
            request.session.rollback()


def _decide(session: Session, package: Submission) -> tuple[object, int, dict[str, str]]:
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("BEGIN IMMEDIATE"))
    earlier = session.get(Package, package.package_id)
    if earlier is not None:
        if not _is_retry(package, earlier):
            return {"detail": "this package_id was used before"}, 409, {}
        return _body(earlier), 200, {"Idempotent-Replayed": "true"}
    preference = session.get(Preference, (package.recipient_id, package.package_type))
    decided = Package(
        **package.model_dump(exclude={"timestamp"}),
        timestamp=package.timestamp.astimezone(UTC).replace(tzinfo=None),
        status="delivered" if preference is None or preference.wanted else "dropped",
    )
    session.add(decided)
    session.flush()
    _count(session, decided)
    return _body(decided), 201, {"Location": f"/packages/{package.package_id}"}


def _is_retry(package: Submission, earlier: Any) -> bool:
    names = ("sender_id", "recipient_id", "package_type")
    return all(getattr(package, name) == getattr(earlier, name) for name in names)


def _count(session: Session, package: Any) -> None:
    key = (package.status, package.package_type)
    counter = session.get(Counter, key, with_for_update=True)
    if counter is None:
        counter = Counter(status=package.status, package_type=package.package_type, value=0)
        session.add(counter)
    counter.value += 1


def _body(package: Any) -> dict[str, object]:
    timestamp: datetime = package.timestamp
    return {
        "package_id": package.package_id,
        "status": package.status,
        "reason": None if package.status == "delivered" else "recipient_declined",
        "sender_id": package.sender_id,
        "recipient_id": package.recipient_id,
        "package_type": package.package_type,
        "timestamp": f"{timestamp.isoformat()}Z",
    }


def read_statistics(request: Request) -> Response:
    """``GET /statistics``: the totals."""
    rows = request.session.execute(
        select(Counter.status, Counter.package_type, func.sum(Counter.value)).group_by(
            Counter.status, Counter.package_type
        )
    )
    totals = {(status, package_type): int(total) for status, package_type, total in rows}
    by_type = {
        name: {status: totals.get((status, name), 0) for status in ("delivered", "dropped")}
        for name in PACKAGE_TYPES
    }
    return _json(
        {
            "packages_delivered": sum(row["delivered"] for row in by_type.values()),
            "packages_dropped": sum(row["dropped"] for row in by_type.values()),
            "requests_rejected": 0,
            "by_type": by_type,
        }
    )


def is_healthy(request: Request) -> Response:
    """``GET /health``: whether the database responds."""
    request.session.execute(select(1))
    return _json(True)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = json.dumps(body, separators=(",", ":")).encode()
    response = Response(content, status, content_type="application/json", charset="UTF-8")
    response.headers.update(headers or {})
    return response
