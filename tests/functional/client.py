"""Helpers that make the requests of senders, recipients and Zap, and the bodies they send."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from baseplate import Baseplate
from webtest import TestApp, TestRequest, TestResponse


class _Recently:
    """Compares equal to any timestamp of the last few minutes, as formatted by the service."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str) or not other.endswith("Z"):
            return False
        age = datetime.now(UTC) - datetime.fromisoformat(other)
        return timedelta(0) <= age < timedelta(minutes=5)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<recently>"


#: Compares equal to a recent timestamp.
RECENTLY = _Recently()

PACKAGE = {
    "timestamp": "2142-03-01T12:00:00Z",
    "sender_id": "zap",
    "recipient_id": "leela",
    "package_id": "pkg-1",
    "package_type": "personal",
}
DECISION = {
    "package_id": "pkg-1",
    "status": "delivered",
    "reason": None,
    "sender_id": "zap",
    "recipient_id": "leela",
    "package_type": "personal",
    "timestamp": "2142-03-01T12:00:00Z",
    "decided_at": RECENTLY,
    "declined_at": None,
}
UPDATE = {
    "timestamp": "2142-03-01T12:00:00Z",
    "personal_preference": True,
    "marketing_preference": False,
}

#: Accepts any status.
ANY = "*"


def send(app: TestApp, status: int | str = 201, **changes: object) -> TestResponse:
    """Send ``PACKAGE`` with some changes."""
    return post(app, "/packages", PACKAGE | changes, status)


def send_batch(app: TestApp, *items: object, status: int | str = 200) -> TestResponse:
    """Send a batch."""
    return post(app, "/packages/batch", list(items), status)


def post(app: TestApp, path: str, body: object, status: int | str) -> TestResponse:
    """Post a body: bytes as they are, anything else as JSON."""
    return app.request(path, method="POST", body=_content(body), status=status)


def read(app: TestApp, package_id: str, status: int | str = 200) -> TestResponse:
    """Read the decision on a package."""
    return app.get(f"/packages/{quote(package_id, safe='')}", status=status)


def update(
    app: TestApp, body: object, recipient_id: str = "leela", status: int | str = 200
) -> TestResponse:
    """Update a recipient's preferences: bytes as they are, anything else as JSON."""
    path = preferences_of(recipient_id)
    return app.request(path, method="PUT", body=_content(body), status=status)


def baseplate_of(app: TestApp) -> Baseplate:
    """The Baseplate object of an application."""
    application: Any = app.app
    baseplate: Baseplate = application.baseplate
    return baseplate


def preferences_of(recipient_id: str) -> str:
    """The path of a recipient's preferences."""
    return f"/recipients/{quote(recipient_id, safe='')}/preferences"


def totals(app: TestApp) -> tuple[int, int, int]:
    """The numbers of delivered, dropped and rejected packages."""
    body = app.get("/statistics").json
    return body["packages_delivered"], body["packages_dropped"], body["requests_rejected"]


def problem(answer: TestResponse) -> dict[str, Any]:
    """The problem in a response, without the request id."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json
    assert body["status"] == answer.status_int
    assert body.pop("request_id") == answer.headers["X-Request-ID"]
    return body


def send_in_chunks(app: TestApp, method: str, path: str, content: bytes) -> TestResponse:
    """Send a body in chunks, without a Content-Length."""
    request = TestRequest.blank(path, method=method, body=content)
    del request.environ["CONTENT_LENGTH"]
    request.environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    return app.do_request(request, status=ANY)


def _content(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
