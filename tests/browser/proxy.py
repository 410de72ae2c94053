"""A reverse proxy for the dashboard: under a path prefix, slow, or without its service."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import ClassVar

from tests.servers.http_client import TIMEOUT
from tests.servers.running import Server

PREFIX = "/express"


class Proxy(ThreadingHTTPServer):
    """Serves a server's paths under a prefix. As a context manager it runs on entry.

    :ivar port: the port that it listens on.
    """

    daemon_threads = True

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server = server
        self.port = self.server_address[1]
        self.error: tuple[int, str, bytes] | None = None
        self.held = ""
        self.released = Event()
        self.released.set()

    def __enter__(self) -> "Proxy":
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    @contextmanager
    def holding(self, path: str = "") -> Iterator[None]:
        """Hold requests back until the block ends.

        :param path: the end of the paths of these requests; all paths by default.
        """
        self.held = path
        self.released.clear()
        try:
            yield
        finally:
            self.released.set()

    @contextmanager
    def down(
        self,
        status: int = 502,
        content_type: str = "text/html",
        body: bytes = b"<h1>Bad Gateway</h1>",
    ) -> Iterator[None]:
        """Respond with an error of the proxy, such as that it can't reach its service."""
        self.error = (status, content_type, body)
        yield
        self.error = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    _OWN: ClassVar = {"connection", "keep-alive", "transfer-encoding", "content-length"}

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith(self.server.held):
            self.server.released.wait()
        if self.server.error:
            status, content_type, content = self.server.error
            self._respond(status, [("Content-Type", content_type)], content)
            return
        if not self.path.startswith(f"{PREFIX}/"):
            self._respond(404, [], b"")
            return
        connection = HTTPConnection("127.0.0.1", self.server.server.port, timeout=TIMEOUT)
        connection.request(
            self.command, self.path.removeprefix(PREFIX), body, dict(self.headers.items())
        )
        response = connection.getresponse()
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in self._OWN]
        self._respond(response.status, headers, response.read())
        connection.close()

    def _respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = _forward  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Log nothing."""
