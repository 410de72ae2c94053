"""The server of ``baseplate-serve``: Baseplate's own, without its delay."""

import socket
from typing import Any

from baseplate.server import wsgi
from gevent.server import StreamServer


def make_server(server_config: dict[str, str], listener: socket.socket, app: Any) -> StreamServer:
    """Make Baseplate's WSGI server; a server factory for the ``[server:main]`` section.

    gevent sends the headers and the body of an answer apart. On a connection that is kept
    alive, the second then waits for the client's delayed acknowledgement of the first, for
    some 40 ms, unless TCP_NODELAY is set. Accepted connections inherit it.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return wsgi.make_server(server_config, listener, app)
