"""Error responses: RFC 9457 problem details, on every path.

Client errors are handled by exception views. All other exceptions pass through Baseplate's
integration first, so that its observers (span, metrics, Sentry) see them, and become problems
in a tween above it.
"""

import logging
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NotRequired, TypedDict

from baseplate.observers.timeout import ServerTimeout
from pydantic_core import to_json
from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.scope import add_global_event_processor

from galaxy_express import metrics
from galaxy_express.group_commit import Overloaded
from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.web import instrumentation
from galaxy_express.web.outages import Outages
from galaxy_express.web.rejections import (
    BodyTooLarge,
    BodyTooSlow,
    ClientError,
    CrossSiteRequest,
    FieldError,
    MalformedBody,
    PackageConflict,
    ParameterError,
    UnsupportedEncoding,
    ValidationFailed,
)
from galaxy_express.web.request_ids import current_request_id
from galaxy_express.web.responses import JsonResponse, json_response

logger = logging.getLogger(__name__)
# Baseplate's observer reports each exception to Sentry; the log must not report it again.
ignore_logger(__name__)

RETRY_AFTER_SECONDS = "1"

# As in RFC 9110; Python's own phrases differ between versions.
_TITLES = {
    HTTPStatus.BAD_REQUEST: "Bad Request",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "Not Found",
    HTTPStatus.METHOD_NOT_ALLOWED: "Method Not Allowed",
    HTTPStatus.REQUEST_TIMEOUT: "Request Timeout",
    HTTPStatus.CONFLICT: "Conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "URI Too Long",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Unsupported Media Type",
    HTTPStatus.EXPECTATION_FAILED: "Expectation Failed",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "Request Header Fields Too Large",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Internal Server Error",
    HTTPStatus.NOT_IMPLEMENTED: "Not Implemented",
    HTTPStatus.SERVICE_UNAVAILABLE: "Service Unavailable",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "HTTP Version Not Supported",
}

# The default code of a problem, by status.
_CODES = {
    HTTPStatus.FORBIDDEN: "cross_site",
    HTTPStatus.NOT_FOUND: "path_not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_TIMEOUT: "body_too_slow",
    HTTPStatus.CONFLICT: "package_conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_encoding",
    HTTPStatus.UNPROCESSABLE_ENTITY: "invalid",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}

_STATUSES: dict[type[ClientError], HTTPStatus] = {
    MalformedBody: HTTPStatus.BAD_REQUEST,
    CrossSiteRequest: HTTPStatus.FORBIDDEN,
    BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    PackageConflict: HTTPStatus.CONFLICT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedEncoding: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ValidationFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
}


class Problem(TypedDict):
    """A problem of RFC 9457. The type ``about:blank`` means that the status defines the kind of
    problem; ``code`` is for programs to compare."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: NotRequired[str]
    errors: NotRequired[list[FieldError | ParameterError]]


def problem(
    status: HTTPStatus,
    detail: str,
    errors: Iterable[FieldError | ParameterError] = (),
    code: str | None = None,
) -> Problem:
    """Describe a problem.

    :param errors: the invalid fields of the body, or the invalid parameters.
    :param code: the code, if it isn't the default for the status.
    """
    body = Problem(
        type="about:blank",
        title=_TITLES[status],
        status=status.value,
        code=code or _CODES.get(status, "malformed"),
        detail=detail,
    )
    if errors := list(errors):
        body["errors"] = errors
    return body


def rejection_problem(error: ClientError, with_errors: bool = True) -> Problem:
    """Describe why a request, or an item of a batch, is rejected.

    :param with_errors: whether to list the invalid fields, or only to count them.
    """
    detail = str(error)
    errors: list[FieldError | ParameterError] = []
    if isinstance(error, ValidationFailed):
        errors = error.errors if with_errors else []
        if omitted := error.omitted + len(error.errors) - len(errors):
            detail += f"; {omitted:,} more {'is' if omitted == 1 else 'are'} not listed"
    return problem(_STATUSES[type(error)], detail, errors)


def problem_response(body: Problem, *headers: tuple[str, str]) -> JsonResponse:
    """Return a response with a problem and the request id."""
    body = Problem(**body, request_id=current_request_id())
    return json_response(body, body["status"], *headers, content_type="application/problem+json")


def final_response(status: HTTPStatus, detail: str) -> bytes:
    """Render a problem as a complete response, for a server that then closes the connection."""
    body = to_json(problem(status, detail))
    head = (
        f"HTTP/1.1 {status.value} {_TITLES[status]}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def unreadable(status: HTTPStatus, reason: str) -> bytes:
    """Render the response to a request that can't be parsed; the connection is then closed.

    :param reason: why it can't be parsed.
    """
    return final_response(status, f"the request can't be read: {reason}")


def not_found(request: Request) -> JsonResponse:
    """Return 404 for an unknown path, or for an unknown package if the path is that of one."""
    path = request.environ["PATH_INFO"]
    if path.startswith("/packages/") and path != "/packages/":
        return package_not_found()
    return problem_response(problem(HTTPStatus.NOT_FOUND, "there is nothing at this path"))


def package_not_found() -> JsonResponse:
    """Return 404 for an unknown package."""
    return problem_response(
        problem(HTTPStatus.NOT_FOUND, "there is no package with this id", code="package_not_found")
    )


def method_not_allowed(methods: Iterable[str]) -> Callable[[Request], JsonResponse]:
    """Make the view for the methods that a path doesn't support.

    :param methods: the supported methods.
    """
    allow = ", ".join(sorted(methods))

    def view(request: Request) -> JsonResponse:
        return problem_response(
            problem(HTTPStatus.METHOD_NOT_ALLOWED, f"this path only supports {allow}"),
            ("Allow", allow),
        )

    return view


def client_error(error: ClientError, request: Request) -> JsonResponse:
    """Return the response to a request that is rejected."""
    headers = [("Accept-Encoding", "identity")] if isinstance(error, UnsupportedEncoding) else []
    return problem_response(rejection_problem(error), *headers)


def _undecodable_path(error: URLDecodeError, request: Request) -> JsonResponse:
    # Only ids in a path can contain such bytes, and they are invalid ids.
    path = request.environ["PATH_INFO"]
    if path.startswith("/recipients/") and path.endswith(("/preferences", "/preferences/history")):
        return client_error(ValidationFailed("the recipient_id in the path is invalid"), request)
    return not_found(request)


def unavailable(detail: str, code: str = "unavailable") -> JsonResponse:
    """Return 503: the request can't be handled now, and a retry is safe."""
    return problem_response(
        problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, code=code),
        ("Retry-After", RETRY_AFTER_SECONDS),
    )


def _failed(detail: str, code: str) -> JsonResponse:
    metrics.count_failed_request(code)
    return unavailable(detail, code)


def errors_tween_factory(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Make a tween that turns unhandled exceptions into problems."""
    outages = Outages(logger, [DatabaseUnavailable, Overloaded, ServerTimeout])

    def report_once(event: Any, hint: dict[str, Any]) -> Any:
        exc_info = hint.get("exc_info")
        return None if exc_info and outages.is_known(exc_info[1]) else event

    add_global_event_processor(report_once)

    def errors_tween(request: Request) -> Response:
        try:
            response = handler(request)
        except DatabaseUnavailable as error:
            outages.note_failure(error, "The database is unavailable: %s", error)
            return _failed(f"the database is {error.state}; a retry is safe", "unavailable")
        except Overloaded as error:
            outages.note_failure(error, "The service is overloaded: %s", error)
            return _failed("the service is overloaded; a retry is safe", "overloaded")
        except ServerTimeout as error:
            outages.note_failure(
                error, "%s took longer than %s s", error.span_name, error.timeout_seconds
            )
            return _failed("the request took too long; a retry is safe", "timed_out")
        except Exception:  # Baseplate's observers have seen it; the client needs a response
            logger.exception("Unhandled exception")
            metrics.count_failed_request("internal")
            return problem_response(
                problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed unexpectedly")
            )
        outages.note_success()
        return response

    return errors_tween


def includeme(config: Configurator) -> None:
    """Set up the error responses, replacing Pyramid's and Baseplate's."""
    config.add_notfound_view(not_found)
    config.add_exception_view(client_error, context=ClientError)
    config.add_exception_view(_undecodable_path, context=URLDecodeError)
    config.add_tween("galaxy_express.web.problems.errors_tween_factory", over=instrumentation.TWEEN)
