"""An id for each request: in its answer, in its problem, and in its lines of the log."""

import logging
import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import INGRESS

_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """The id of the request that is being answered; empty outside of any."""
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


class _LogRecord(logging.LogRecord):
    """A line of the log that knows its request; Baseplate's JSON logs show it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if request_id := _current.get():
            self.request_id = request_id


def includeme(configurator: Configurator) -> None:
    """Set up the ids of requests, around everything else, and in the log."""
    configurator.add_tween("galaxy_express.web.request_ids.request_id_tween_factory", under=INGRESS)
    logging.setLogRecordFactory(_LogRecord)
