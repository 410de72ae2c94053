"""The server for ``baseplate-serve``: Baseplate's server without its delay, and stricter."""

import logging
import socket
import sys
from typing import Any

from baseplate.lib.config import ConfigurationError
from baseplate.server import SERVER_STATE, ServerLifecycle, wsgi
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from galaxy_express.serving.http_connection import Connection, serve
from galaxy_express.serving.http_head import Limits
from galaxy_express.settings_checks import check_server_settings

logger = logging.getLogger(__name__)

# gunicorn's defaults.
LIMITS = Limits(line=4094, fields=100, field_size=8190)


class _Handler:
    """gevent's handler of a connection, with the HTTP implementation of the gunicorn worker.

    After shutdown has begun, connections are closed after their next response.
    """

    def __init__(self, sock: Any, address: Any, server: WSGIServer) -> None:
        self._sock = sock
        self._ip: str
        self._ip, port = address[:2] if address else ("", "")  # a Unix socket has none
        remote = {"REMOTE_ADDR": self._ip, "REMOTE_PORT": str(port)}
        self._environ = {**server.get_environ(), **remote, "wsgi.input_terminated": True}
        self._app = server.application

    def handle(self) -> None:
        """Serve the connection until its end."""
        connection = Connection(self._sock, self._environ, LIMITS, _is_running)
        serve(connection, connection.next_request, self._app, logger, self._ip)


def _is_running() -> bool:
    return SERVER_STATE.state is not ServerLifecycle.SHUTTING_DOWN


def make_server(server_config: dict[str, str], listener: socket.socket, app: Any) -> StreamServer:
    """Make Baseplate's WSGI server; the server factory of the ``[server:main]`` section.

    A large response is sent in several calls. On a persistent connection, the second one would wait
    about 40 ms for the client's delayed acknowledgement of the first, unless TCP_NODELAY is set.
    Accepted connections inherit the option.
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
