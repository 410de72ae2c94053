"""An id for each request: in its answer, in its problem, and in its lines of the log."""

import logging
import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar

from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """Return the id of the current request; empty outside of any."""
    return _current.get()


def request_id_tween_factory(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Make a tween that takes ``X-Request-ID`` if it is sane, makes one otherwise, and
    puts it on the answer."""

    def request_id_tween(request: Request) -> Response:
        given = request.environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _SANE.fullmatch(given) else secrets.token_hex(8)
        token = _current.set(request_id)
        try:
            response = handler(request)
            response.headerlist.append(("X-Request-ID", request_id))
            return response
        finally:
            _current.reset(token)

    return request_id_tween


class RequestIdFilter(logging.Filter):
    """Adds the id of the current request to lines of the log, and drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id, if a request is being answered."""
        if request_id := _current.get():
            record.request_id = request_id
        return True


def includeme(configurator: Configurator) -> None:
    """Set up the ids of requests, around everything else."""
    configurator.add_tween("galaxy_express.web.request_ids.request_id_tween_factory")
