"""JSON responses."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic_core import to_json
from pyramid.interfaces import IResponse
from webob.util import status_reasons
from zope.interface import implementer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


@implementer(IResponse)
class JsonResponse:
    """A response with a short body.

    It has what Pyramid, Sentry's integration and our tweens use of a response. WebOb's would take
    several times as long to create, and make a relative ``Location`` absolute, using the client's
    ``Host``.

    :param body: the whole body.
    :param status_code: the HTTP status.
    :param headerlist: the headers.
    """

    def __init__(self, body: bytes, status_code: int, headerlist: list[tuple[str, str]]) -> None:
        self.body = body
        self.status_code = int(status_code)
        self.headerlist = headerlist

    @property
    def status_int(self) -> int:
        """The HTTP status, by the name that Sentry's integration uses."""
        return self.status_code

    @property
    def content_length(self) -> int:
        """The length of the body in bytes."""
        return len(self.body)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Send the response, as a WSGI application."""
        reason = status_reasons[self.status_code]
        start_response(f"{self.status_code} {reason}", self.headerlist)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [self.body]


def json_response(
    body: object,
    status: int = 200,
    *headers: tuple[str, str],
    content_type: str = "application/json",
) -> JsonResponse:
    """Return a response with a value as JSON, or with bytes that already are JSON."""
    content = body if isinstance(body, bytes) else to_json(body)
    return JsonResponse(
        content,
        status,
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
