"""The server of ``baseplate-serve``: Baseplate's own, without its delay."""

import socket
from typing import Any

from baseplate.server import SERVER_STATE, ServerLifecycle, wsgi
from gevent.pywsgi import WSGIHandler, WSGIServer


class _Handler(WSGIHandler):
    """gevent's, which at shutdown would go on with connections that are kept alive until it
    is killed in the middle of an answer."""

    def read_request(self, raw_requestline: str) -> Any:
        """Read a request; when shutting down, the connection's last."""
        is_valid = super().read_request(raw_requestline)
        if SERVER_STATE.state is ServerLifecycle.SHUTTING_DOWN:
            self.close_connection = True
        return is_valid


def make_server(server_config: dict[str, str], listener: socket.socket, app: Any) -> WSGIServer:
    """Make Baseplate's WSGI server; a server factory for the ``[server:main]`` section.

    gevent sends the headers and the body of an answer apart. On a connection that is kept
    alive, the second then waits for the client's delayed acknowledgement of the first, for
    some 40 ms, unless TCP_NODELAY is set. Accepted connections inherit it.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = wsgi.make_server(server_config, listener, app)
    server.handler_class = _Handler
    return server
