"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from pyramid.response import Response


class _Answer(Response):
    def _abs_headerlist(self, environ: Mapping[str, Any]) -> list[tuple[str, str]]:
        # WebOb would make a relative Location absolute, with the client's Host header.
        return list(self.headerlist)


def json_response(
    body: object,
    status: int = 200,
    *headers: tuple[str, str],
    content_type: str = "application/json",
) -> Response:
    """Answer with a value as JSON, or with bytes that are JSON already."""
    content = body if isinstance(body, bytes) else to_json(body)
    return _Answer(
        body=content,
        status=status,
        headerlist=[
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
