"""JSON responses."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from pyramid.response import Response


class _JsonResponse(Response):  # type: ignore[misc]
    def _abs_headerlist(self, environ: Mapping[str, Any]) -> list[tuple[str, str]]:
        # WebOb would make a relative Location absolute, using the client's Host header.
        return list(self.headerlist)


def json_response(
    body: object,
    status: int = 200,
    *headers: tuple[str, str],
    content_type: str = "application/json",
) -> Response:
    """Return a response with a value as JSON, or with bytes that already are JSON."""
    content = body if isinstance(body, bytes) else to_json(body)
    return _JsonResponse(
        body=content,
        status=status,
        headerlist=[
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
