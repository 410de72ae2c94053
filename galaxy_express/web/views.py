"""The service over HTTP: each view reads a request, has the work done, and answers."""

from http import HTTPStatus
from urllib.parse import parse_qsl, quote

from baseplate.server import SERVER_STATE, ServerLifecycle
from baseplate.thrift.ttypes import IsHealthyProbe
from gunicorn.http.errors import ParseException
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from galaxy_express.delivery import Conflict, Package
from galaxy_express.storage import queries
from galaxy_express.web.problems import (
    PackageConflict,
    not_found,
    rejection_problem,
    unavailable,
)
from galaxy_express.web.responses import json_response
from galaxy_express.web.schemas import (
    BodyTooLarge,
    MalformedBody,
    RejectedRequest,
    Schemas,
    ValidationFailed,
    decision_body,
    is_identifier,
)

MAX_BODY = 64 * 1024
MAX_BATCH_BODY = 1024 * 1024


class GalaxyExpressService:
    """The views.

    They reach the database to read from as ``request.database``, and what decides and
    records as ``request.desk``.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas

    def send_package(self, request: Request) -> Response:
        """``POST /packages``: decide of a package, once."""
        try:
            package = self._schemas.parse_package(_read_body(request, MAX_BODY))
        except RejectedRequest:
            request.desk.reject()
            raise
        outcome = request.desk.send(package)
        if isinstance(outcome, Conflict):
            raise _conflict()
        body = decision_body(outcome.decision)
        if outcome.replayed:
            return json_response(body, HTTPStatus.OK, ("Idempotent-Replayed", "true"))
        location = f"/packages/{quote(package.package_id, safe='')}"
        return json_response(body, HTTPStatus.CREATED, ("Location", location))

    def send_batch(self, request: Request) -> Response:
        """``POST /packages/batch``: decide of up to 1,000 packages, each on its own."""
        try:
            items = self._schemas.parse_batch(_read_body(request, MAX_BATCH_BODY))
        except RejectedRequest:
            request.desk.reject()
            raise
        packages = [item for item in items if isinstance(item, Package)]
        outcomes = iter(
            request.desk.send_batch(packages, rejected=len(items) - len(packages)) if items else ()
        )
        results: list[object] = []
        for item in items:
            outcome = item if isinstance(item, RejectedRequest) else next(outcomes)
            if isinstance(outcome, Conflict):
                outcome = _conflict()
            if isinstance(outcome, RejectedRequest):
                results.append({"status": "rejected", "problem": rejection_problem(outcome)})
            else:
                results.append(decision_body(outcome.decision))
        return json_response(results)

    def read_package(self, request: Request) -> Response:
        """``GET /packages/{package_id}``: the decision, as it was taken."""
        return self._read_decision(request, request.matchdict["package_id"])

    def read_package_named_batch(self, request: Request) -> Response:
        """``GET /packages/batch``: the decision on the package of that id."""
        return self._read_decision(request, "batch")

    def _read_decision(self, request: Request, package_id: str) -> Response:
        decision = None
        if is_identifier(package_id):
            with request.database.read_connection() as connection:
                decision = queries.find_decision(connection, package_id)
        return not_found(request) if decision is None else json_response(decision_body(decision))

    def update_preferences(self, request: Request) -> Response:
        """``PUT /recipients/{recipient_id}/preferences``: say what types are wanted."""
        recipient_id = request.matchdict["recipient_id"]
        update = self._schemas.parse_update(_read_body(request, MAX_BODY), recipient_id)
        updated = request.desk.update_preferences(update)
        body = self._schemas.preferences_body(recipient_id, updated.preferences)
        return json_response(body | {"applied": updated.applied})

    def read_preferences(self, request: Request) -> Response:
        """``GET /recipients/{recipient_id}/preferences``: what is in force."""
        recipient_id = request.matchdict["recipient_id"]
        if not is_identifier(recipient_id):
            raise ValidationFailed("the recipient_id of the path can't be valid")
        with request.database.read_connection() as connection:
            preferences = queries.find_preferences(connection, [recipient_id])[recipient_id]
        return json_response(self._schemas.preferences_body(recipient_id, preferences))

    def read_statistics(self, request: Request) -> Response:
        """``GET /statistics``: the totals."""
        with request.database.read_connection() as connection:
            totals = queries.read_totals(connection)
        return json_response(self._schemas.statistics_body(totals))

    def is_healthy(self, request: Request) -> Response:
        """``GET /health``: whether the service can do its work, or just whether it lives."""
        if _health_probe(request) == IsHealthyProbe.READINESS:
            if SERVER_STATE.state is ServerLifecycle.SHUTTING_DOWN:
                return unavailable("the service is shutting down")
            with request.database.read_connection() as connection:
                queries.check_schema(connection)
        return json_response(True)


def includeme(config: Configurator) -> None:
    """Add the API to the application."""
    service = GalaxyExpressService(config.registry.settings["schemas"])
    # Pyramid's patterns end in $, which would let a line feed follow; no path ends in one.
    config.add_route("line_feed", "/{path:(?s:.*)\n}")
    config.add_view(not_found, route_name="line_feed")

    config.add_resource("/packages", {"POST": service.send_package})
    config.add_resource(
        "/packages/batch",
        {"POST": service.send_batch, "GET": service.read_package_named_batch},
    )
    # An id may hold anything that can be percent-encoded, slashes and line ends included.
    config.add_resource("/packages/{package_id:(?s:.+)}", {"GET": service.read_package})
    config.add_resource(
        "/recipients/{recipient_id:(?s:.*)}/preferences",
        {"PUT": service.update_preferences, "GET": service.read_preferences},
    )
    config.add_resource("/statistics", {"GET": service.read_statistics})
    config.add_resource("/health", {"GET": service.is_healthy})


def _read_body(request: Request, limit: int) -> bytes:
    length = request.content_length
    if length is None or length <= limit:
        try:
            body: bytes = request.environ["wsgi.input"].read(limit + 1)
        except (OSError, ValueError, ParseException) as error:  # of gevent, of gunicorn
            raise MalformedBody("the body has chunks that are malformed") from error
        if length is not None and len(body) < length:
            raise MalformedBody("the body ended early")
        if len(body) <= limit:
            return body
    raise BodyTooLarge(f"the body is larger than {limit} bytes")


def _health_probe(request: Request) -> int:
    # Baseplate's names and numbers, and its rule that readiness stands in for any other.
    query = dict(parse_qsl(request.environ.get("QUERY_STRING", ""), errors="replace"))
    asked = query.get("type", "").upper()
    for name, number in IsHealthyProbe._NAMES_TO_VALUES.items():
        if asked in (name, str(number)):
            return number
    return IsHealthyProbe.READINESS


def _conflict() -> PackageConflict:
    return PackageConflict(
        "this package_id was used before, for another sender, recipient or type of package"
    )
