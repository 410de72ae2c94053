"""Request ids: in the response, in problems, and in log lines."""

import logging
import random
import re
from collections.abc import Callable
from contextvars import ContextVar

from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

_VALID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """Return the id of the current request; empty outside of requests."""
    return _current.get()


def request_id_tween_factory(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Make a tween that uses the ``X-Request-ID`` of the request if it is valid, or generates one,
    and adds it to the response."""

    def request_id_tween(request: Request) -> Response:
        given = request.environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _VALID.fullmatch(given) else f"{random.getrandbits(64):016x}"
        token = _current.set(request_id)
        try:
            response = handler(request)
            response.headerlist.append(("X-Request-ID", request_id))
            return response
        finally:
            _current.reset(token)

    return request_id_tween


class RequestIdFilter(logging.Filter):
    """Adds the id of the current request to log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id, if there is a current request."""
        if request_id := _current.get():
            record.request_id = request_id
        return True


def includeme(configurator: Configurator) -> None:
    """Add the tween, around everything else."""
    configurator.add_tween("galaxy_express.web.request_ids.request_id_tween_factory")
