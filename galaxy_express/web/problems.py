"""Errors as answers: RFC 9457 problem details, on every path.

What a client did wrong is answered by exception views. A fault of ours goes up through
Baseplate's tween, so that its observers (span, metrics, Sentry) see the exception itself,
and is made an answer only outside of it.
"""

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import NotRequired, TypedDict

from baseplate.observers.timeout import ServerTimeout
from pydantic_core import to_json
from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from sentry_sdk.integrations.logging import ignore_logger

from galaxy_express.group_commit import Overloaded
from galaxy_express.storage.database import DatabaseUnavailable
from galaxy_express.web import instrumentation
from galaxy_express.web.request_ids import current_request_id
from galaxy_express.web.responses import json_response
from galaxy_express.web.schemas import (
    BodyTooLarge,
    FieldError,
    MalformedBody,
    RejectedRequest,
    ValidationFailed,
)

logger = logging.getLogger(__name__)
# Sentry has each fault from Baseplate's observer, as the exception itself, and needn't have
# it from the log again.
ignore_logger(__name__)

RETRY_AFTER_SECONDS = "1"


class PackageConflict(RejectedRequest):
    """A ``package_id`` was used before, for a different package."""


# As RFC 9110 has them; Python's own phrases differ from version to version.
_TITLES = {
    HTTPStatus.BAD_REQUEST: "Bad Request",
    HTTPStatus.NOT_FOUND: "Not Found",
    HTTPStatus.METHOD_NOT_ALLOWED: "Method Not Allowed",
    HTTPStatus.CONFLICT: "Conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "URI Too Long",
    HTTPStatus.EXPECTATION_FAILED: "Expectation Failed",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "Request Header Fields Too Large",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Internal Server Error",
    HTTPStatus.SERVICE_UNAVAILABLE: "Service Unavailable",
}

_STATUSES: dict[type[RejectedRequest], HTTPStatus] = {
    MalformedBody: HTTPStatus.BAD_REQUEST,
    PackageConflict: HTTPStatus.CONFLICT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ValidationFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
}


class Problem(TypedDict):
    """A problem, as RFC 9457 has it. The type ``about:blank`` says that the status says
    what kind it is."""

    type: str
    title: str
    status: int
    detail: str
    request_id: NotRequired[str]
    errors: NotRequired[list[FieldError]]


def problem(status: HTTPStatus, detail: str, errors: Iterable[FieldError] = ()) -> Problem:
    """Describe a problem.

    :param errors: what is wrong with which fields of the body.
    """
    body = Problem(type="about:blank", title=_TITLES[status], status=status.value, detail=detail)
    if errors := list(errors):
        body["errors"] = errors
    return body


def rejection_problem(refusal: RejectedRequest) -> Problem:
    """Describe why a request, or an item of a batch, is refused."""
    errors = refusal.errors if isinstance(refusal, ValidationFailed) else ()
    return problem(_STATUSES[type(refusal)], str(refusal), errors)


def problem_response(body: Problem, *headers: tuple[str, str]) -> Response:
    """Answer with a problem, and the id of the request that met it."""
    body = Problem(**body, request_id=current_request_id())
    return json_response(body, body["status"], *headers, content_type="application/problem+json")


def unreadable(status: HTTPStatus, reason: str) -> bytes:
    """Answer to what is no request yet, nor will be; the bytes of the connection's last answer.

    :param reason: what keeps the server from reading it.
    """
    body = to_json(problem(status, f"the request can't be read: {reason}"))
    head = (
        f"HTTP/1.1 {status.value} {_TITLES[status]}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def not_found(request: Request) -> Response:
    """Answer that there is nothing at the path."""
    return problem_response(problem(HTTPStatus.NOT_FOUND, "there is nothing at this path"))


def method_not_allowed(methods: Iterable[str]) -> Callable[[Request], Response]:
    """Make the view for the methods that a path doesn't have.

    :param methods: those that it has.
    """
    allow = ", ".join(sorted(methods))

    def view(request: Request) -> Response:
        return problem_response(
            problem(HTTPStatus.METHOD_NOT_ALLOWED, f"this path only takes {allow}"),
            ("Allow", allow),
        )

    return view


def _refused(refusal: RejectedRequest, request: Request) -> Response:
    return problem_response(rejection_problem(refusal))


def _undecodable_path(error: URLDecodeError, request: Request) -> Response:
    # Only an id can be anything, and such an id can't be valid.
    path = request.environ["PATH_INFO"]
    if path.startswith("/recipients/") and path.endswith("/preferences"):
        return _refused(ValidationFailed("the recipient_id of the path is not UTF-8"), request)
    return not_found(request)


def unavailable(detail: str) -> Response:
    """Answer that nothing can be done now, and that it is safe to try again."""
    return problem_response(
        problem(HTTPStatus.SERVICE_UNAVAILABLE, detail), ("Retry-After", RETRY_AFTER_SECONDS)
    )


def faults_tween_factory(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Make a tween that turns into an answer what Baseplate's tween has let pass."""

    def faults_tween(request: Request) -> Response:
        try:
            return handler(request)
        except DatabaseUnavailable as fault:
            logger.error("The database is unavailable: %s", fault)
            return unavailable("the database is unavailable; it is safe to try again")
        except Overloaded as fault:
            logger.warning("Overloaded: %s", fault)
            return unavailable("there is more to do than can be done; it is safe to try again")
        except ServerTimeout as fault:
            logger.warning("%s took longer than %s s", fault.span_name, fault.timeout_seconds)
            return unavailable("this took too long; it is safe to try again")
        except Exception:  # Baseplate's observers have seen it, and the client is owed an answer
            logger.exception("Unexpected error")
            return problem_response(
                problem(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong on our side")
            )

    return faults_tween


def includeme(config: Configurator) -> None:
    """Set up the answers to errors, in place of Pyramid's and Baseplate's."""
    config.add_notfound_view(not_found)
    config.add_exception_view(_refused, context=RejectedRequest)
    config.add_exception_view(_undecodable_path, context=URLDecodeError)
    config.add_tween(
        "galaxy_express.web.problems.faults_tween_factory",
        over=instrumentation.TWEEN,
    )
