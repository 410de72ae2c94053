"""The views: each parses a request, passes it on, and renders the response."""

from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl, quote

from baseplate.server import SERVER_STATE, ServerLifecycle
from baseplate.thrift.ttypes import IsHealthyProbe
from pyramid.config import Configurator
from pyramid.request import Request

from galaxy_express import metrics
from galaxy_express.delivery import Conflict, Package
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.preferences import PreferenceUpdate
from galaxy_express.storage import queries
from galaxy_express.web.batches import merge_results, render_results
from galaxy_express.web.bodies import MAX_BATCH_BODY, MAX_BODY, read_body
from galaxy_express.web.fields import is_identifier
from galaxy_express.web.paging import next_cursor, parse_page_query
from galaxy_express.web.parsing import BodyParser, check_recipient_of_path
from galaxy_express.web.problems import not_found, package_not_found, unavailable
from galaxy_express.web.rejections import PackageConflict, RejectedRequest
from galaxy_express.web.rendering import (
    decision_body,
    preferences_body,
    received_update_body,
    statistics_body,
)
from galaxy_express.web.responses import JsonResponse, json_response


class GalaxyExpressService:
    """The views.

    They read from the database as ``request.database``; decisions are made and looked up by the
    desk, ``request.desk``.

    :param path_prefix: the prefix that a proxy removes from every path, if there is one.
    """

    def __init__(
        self, package_types: PackageTypeRegistry, parser: BodyParser, path_prefix: str
    ) -> None:
        self._package_types = package_types
        self._parser = parser
        self._path_prefix = path_prefix

    def send_package(self, request: Request) -> JsonResponse:
        """``POST /packages``: decide a package."""
        try:
            package = self._parser.parse_package(read_body(request, MAX_BODY))
        except RejectedRequest:
            request.desk.reject()
            raise
        outcome = request.desk.send(package)
        if isinstance(outcome, Conflict):
            raise PackageConflict
        body = decision_body(outcome.decision)
        if outcome.replayed:
            return json_response(body, HTTPStatus.OK, ("Idempotent-Replayed", "true"))
        location = f"{self._path_prefix}/packages/{quote(package.package_id, safe='')}"
        return json_response(body, HTTPStatus.CREATED, ("Location", location))

    def send_batch(self, request: Request) -> JsonResponse:
        """``POST /packages/batch``: decide up to 1,000 packages."""
        try:
            body = read_body(request, MAX_BATCH_BODY)
            items = self._parser.parse_batch(body)
        except RejectedRequest:
            request.desk.reject()
            raise
        packages = [item for item in items if isinstance(item, Package)]
        rejected = len(items) - len(packages)
        outcomes = request.desk.send_batch(packages, rejected) if items else []
        return json_response(render_results(list(merge_results(items, outcomes)), len(body)))

    def read_package(self, request: Request) -> JsonResponse:
        """``GET /packages/{package_id}``: the decision on a package."""
        return self._read_decision(request, request.matchdict["package_id"])

    def read_package_named_batch(self, request: Request) -> JsonResponse:
        """``GET /packages/batch``: the decision on the package with that id."""
        return self._read_decision(request, "batch")

    def _read_decision(self, request: Request, package_id: str) -> JsonResponse:
        decision = request.desk.find(package_id) if is_identifier(package_id) else None
        return json_response(decision_body(decision)) if decision else package_not_found()

    def list_packages(self, request: Request) -> JsonResponse:
        """``GET /packages``: a page of decisions, of one recipient or of all."""
        query = parse_page_query(request.environ.get("QUERY_STRING", ""), "packages")
        with request.database.read_connection() as connection:
            if query.page.ascending:  # followers act on what they read
                request.desk.confirm(connection)
            page = queries.find_decisions_page(connection, query.recipient_id, query.page)
        packages = [decision_body(decision) for decision in page.items]
        return json_response({"packages": packages, "next": next_cursor(query, page)})

    def update_preferences(self, request: Request) -> JsonResponse:
        """``PUT /recipients/{recipient_id}/preferences``: update a recipient's preferences."""
        return self._update(request, self._parser.parse_update)

    def patch_preferences(self, request: Request) -> JsonResponse:
        """``PATCH /recipients/{recipient_id}/preferences``: update some of the preferences."""
        return self._update(request, self._parser.parse_partial_update)

    def _update(
        self, request: Request, parse: Callable[[bytes, str], PreferenceUpdate]
    ) -> JsonResponse:
        recipient_id = request.matchdict["recipient_id"]
        updated = request.desk.update_preferences(parse(read_body(request, MAX_BODY), recipient_id))
        body = preferences_body(self._package_types, recipient_id, updated.preferences)
        return json_response(body | {"applied": updated.applied})

    def read_preferences(self, request: Request) -> JsonResponse:
        """``GET /recipients/{recipient_id}/preferences``: a recipient's current preferences."""
        recipient_id = request.matchdict["recipient_id"]
        check_recipient_of_path(recipient_id)
        with request.database.read_connection() as connection:
            preferences = queries.find_preferences(connection, [recipient_id])[recipient_id]
        return json_response(preferences_body(self._package_types, recipient_id, preferences))

    def list_updates(self, request: Request) -> JsonResponse:
        """``GET /recipients/{recipient_id}/preferences/history``: a page of a recipient's
        preference updates."""
        recipient_id = request.matchdict["recipient_id"]
        check_recipient_of_path(recipient_id)
        query = parse_page_query(request.environ.get("QUERY_STRING", ""), "history", recipient_id)
        with request.database.read_connection() as connection:
            if query.page.ascending:
                request.desk.confirm(connection)
            page = queries.find_updates_page(connection, recipient_id, query.page)
        updates = [received_update_body(received) for received in page.items]
        return json_response({"updates": updates, "next": next_cursor(query, page)})

    def read_statistics(self, request: Request) -> JsonResponse:
        """``GET /statistics``: the totals."""
        with request.database.read_connection() as connection:
            totals = queries.read_totals(connection)
        return json_response(statistics_body(self._package_types, totals))

    def is_healthy(self, request: Request) -> JsonResponse:
        """``GET /health``: whether the service is ready, or only whether it is alive."""
        if _health_probe(request) == IsHealthyProbe.READINESS:
            if SERVER_STATE.state is ServerLifecycle.SHUTTING_DOWN:
                return unavailable("the service is shutting down")
            try:
                with request.database.read_connection() as connection:
                    request.desk.check(connection)
            except Exception:  # counted here, and handled like any other
                metrics.set_ready(False)
                raise
            metrics.set_ready(True)
        return json_response(True)


def includeme(config: Configurator) -> None:
    """Add the API to the application."""
    settings = config.registry.settings
    package_types = settings["package_types"]
    parser = BodyParser(package_types, settings["max_ahead"])
    service = GalaxyExpressService(package_types, parser, settings["path_prefix"])
    # Pyramid's patterns end in $, which also matches before a trailing line feed.
    config.add_route("line_feed", "/{path:(?s:.*)\n}")
    config.add_view(not_found, route_name="line_feed")

    # Pyramid tries the routes in this order.
    config.add_resource("/health", {"GET": service.is_healthy})
    config.add_resource("/packages", {"POST": service.send_package, "GET": service.list_packages})
    config.add_resource(
        "/packages/batch",
        {"POST": service.send_batch, "GET": service.read_package_named_batch},
    )
    # An id may contain anything that can be percent-encoded, including slashes and line breaks.
    config.add_resource("/packages/{package_id:(?s:.+)}", {"GET": service.read_package})
    config.add_resource("/statistics", {"GET": service.read_statistics})
    config.add_resource(
        "/recipients/{recipient_id:(?s:.*)}/preferences",
        {
            "PUT": service.update_preferences,
            "PATCH": service.patch_preferences,
            "GET": service.read_preferences,
        },
    )
    config.add_resource(
        "/recipients/{recipient_id:(?s:.*)}/preferences/history", {"GET": service.list_updates}
    )


# Baseplate's probes, by name and by number.
_PROBES = {
    "READINESS": IsHealthyProbe.READINESS,
    "LIVENESS": IsHealthyProbe.LIVENESS,
    "STARTUP": IsHealthyProbe.STARTUP,
}
_PROBES |= {str(number): number for number in _PROBES.values()}


def _health_probe(request: Request) -> int:
    # As in Baseplate, anything else is readiness.
    query = request.environ.get("QUERY_STRING")
    if not query:
        return IsHealthyProbe.READINESS
    probe = dict(parse_qsl(query, errors="replace")).get("type", "")
    return _PROBES.get(probe.upper(), IsHealthyProbe.READINESS)
