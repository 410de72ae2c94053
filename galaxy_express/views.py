"""The service over HTTP: each view reads a request, has the work done, and answers."""

from http import HTTPStatus
from urllib.parse import parse_qsl, quote

from baseplate.server import SERVER_STATE, ServerLifecycle
from baseplate.thrift.ttypes import IsHealthyProbe
from gunicorn.http.errors import ParseException
from pyramid.request import Request
from pyramid.response import Response

from galaxy_express import records
from galaxy_express.delivery import Conflict, Package
from galaxy_express.problems import (
    PackageConflict,
    not_found,
    refusal_problem,
    unavailable,
)
from galaxy_express.responses import json_response
from galaxy_express.schemas import (
    Invalid,
    Malformed,
    Refused,
    Schemas,
    TooLarge,
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
        except Refused:
            request.desk.refuse()
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
        except Refused:
            request.desk.refuse()
            raise
        packages = [item for item in items if isinstance(item, Package)]
        outcomes = iter(
            request.desk.send_batch(packages, refused=len(items) - len(packages)) if items else ()
        )
        results: list[object] = []
        for item in items:
            outcome = item if isinstance(item, Refused) else next(outcomes)
            if isinstance(outcome, Conflict):
                outcome = _conflict()
            if isinstance(outcome, Refused):
                results.append({"status": "rejected", "problem": refusal_problem(outcome)})
            else:
                results.append(decision_body(outcome.decision))
        return json_response(results)

    def read_package(self, request: Request) -> Response:
        """``GET /packages/{package_id}``: the decision, as it was taken."""
        package_id = request.matchdict["package_id"]
        decision = None
        if is_identifier(package_id):
            with request.database.reading() as connection:
                decision = records.find_decision(connection, package_id)
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
            raise Invalid("the recipient_id of the path can't be valid")
        with request.database.reading() as connection:
            preferences = records.find_preferences(connection, [recipient_id])[recipient_id]
        return json_response(self._schemas.preferences_body(recipient_id, preferences))

    def read_statistics(self, request: Request) -> Response:
        """``GET /statistics``: the totals."""
        with request.database.reading() as connection:
            totals = records.read_totals(connection)
        return json_response(self._schemas.statistics_body(totals))

    def is_healthy(self, request: Request) -> Response:
        """``GET /health``: whether the service can do its work, or just whether it lives."""
        if _health_probe(request) == IsHealthyProbe.READINESS:
            if SERVER_STATE.state is ServerLifecycle.SHUTTING_DOWN:
                return unavailable("the service is shutting down")
            with request.database.reading() as connection:
                records.check_schema(connection)
        return json_response(True)


def _read_body(request: Request, limit: int) -> bytes:
    length = request.content_length
    if length is None or length <= limit:
        try:
            body: bytes = request.environ["wsgi.input"].read(limit + 1)
        except (OSError, ValueError, ParseException) as error:  # of gevent, of gunicorn
            raise Malformed("the body has chunks that are malformed") from error
        if length is not None and len(body) < length:
            raise Malformed("the body ended early")
        if len(body) <= limit:
            return body
    raise TooLarge(f"the body is larger than {limit} bytes")


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
