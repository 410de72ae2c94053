"""The server for ``baseplate-serve``: Baseplate's server without its delay, and stricter."""

import logging
import re
import socket
import sys
from http import HTTPStatus
from typing import Any

from baseplate.lib.config import ConfigurationError
from baseplate.server import SERVER_STATE, ServerLifecycle, wsgi
from gevent.pywsgi import WSGIHandler
from gevent.server import StreamServer

from galaxy_express.settings import check_server_settings
from galaxy_express.web.problems import unreadable

logger = logging.getLogger(__name__)

# A list of transfer codings in which `chunked` may only be the last one.
_UNKNOWN_CODINGS = re.compile(r"(?i:((?!chunked\b)[a-z0-9_-]+[ \t]*,[ \t]*)*[a-z0-9_-]+)")


class _Handler(WSGIHandler):
    """gevent's connection handler, except that it closes persistent connections at shutdown. gevent
    would serve them until it is killed in the middle of a response."""

    close_connection: bool
    request_version: str
    _has_unknown_coding = False

    def MessageClass(self, *args: Any) -> Any:  # noqa: N802 - gevent's name
        """Parse the head of a request.

        :raises ValueError: if the end of the body is ambiguous (RFC 9112, section 6.3), or the
            transfer coding is unknown.
        """
        head = super().MessageClass(*args)
        lengths = head.get_all("content-length", [])
        codings = head.get_all("transfer-encoding", [])
        if (
            len(lengths) + len(codings) > 1
            or any(not re.fullmatch(r"[0-9]+[ \t]*", length) for length in lengths)
            or any(coding.lower() != "chunked" for coding in codings)
            or head.defects
        ):
            self._has_unknown_coding = (
                self.request_version == "HTTP/1.1"
                and not (lengths or codings[1:] or head.defects)
                and _UNKNOWN_CODINGS.fullmatch(codings[0]) is not None
            )
            raise ValueError("the end of the body is ambiguous")
        return head

    def read_request(self, raw_requestline: str) -> Any:
        """Read the head of a request, and decide whether to close the connection after it."""
        is_valid = super().read_request(raw_requestline)
        is_shutting_down = SERVER_STATE.state is ServerLifecycle.SHUTTING_DOWN
        # After a malformed chunk the start of the next request is unknown.
        is_chunked = "transfer-encoding" in self.headers
        self.close_connection = self.close_connection or is_shutting_down or is_chunked
        return is_valid

    def handle_one_request(self) -> Any:
        """Handle a request. If it can't be parsed, respond with a problem; gevent sends no body."""
        result = super().handle_one_request()
        if isinstance(result, tuple):  # a status, and a response that has not been sent yet
            status, reason = int(result[0]), "malformed, or the head is too large"
            if self._has_unknown_coding:
                status, reason = HTTPStatus.NOT_IMPLEMENTED, "the Transfer-Encoding is unknown"
            return str(status), unreadable(HTTPStatus(status), reason)
        return result


def make_server(server_config: dict[str, str], listener: socket.socket, app: Any) -> StreamServer:
    """Make Baseplate's WSGI server; the server factory of the ``[server:main]`` section.

    gevent sends the headers and the body of a response separately. On a persistent connection, the
    body then waits about 40 ms for the client's delayed acknowledgement of the headers, unless
    TCP_NODELAY is set. Accepted connections inherit the option.
    """
    try:
        check_server_settings(server_config)
    except ConfigurationError as error:
        sys.exit("\n".join(f"[server:main] {line}" for line in str(error).splitlines()))
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Baseplate's own handler is configured in the same way.
    config = server_config | {"handler": f"{__name__}:_Handler"}
    server = wsgi.make_server(config, listener, app)
    _announce(listener)
    return server


def _announce(listener: socket.socket) -> None:
    if listener.family == socket.AF_INET:
        host, port = listener.getsockname()
        url = f"http://{'localhost' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - compared
        logger.info("Galaxy Express is at %s (dashboard: %s/, API: %s/docs)", url, url, url)
