"""The command ``galaxy-express health``: check whether the service on this machine is ready.

The image's health check runs it every few seconds, so it imports few modules.
"""

import signal
import socket
import sys
from http.client import HTTPConnection, HTTPException

from galaxy_express.ops.output import write
from galaxy_express.serving import environment
from galaxy_express.serving.bind import parse_address, socket_path

# Less than the timeout of the image's health check, so that the reason is reported.
TIMEOUT_SECONDS = 4


def main() -> None:
    """Check the service at the address in ``$GALAXY_EXPRESS_BIND``.

    :raises SystemExit: with the reason, if the service isn't ready.
    """
    bind = environment.bind()
    try:
        status, body = probe(bind)
    except (OSError, HTTPException) as error:
        sys.exit(f"No response from {bind}: {error}")
    if status != 200:
        sys.exit(f"Not ready: {body}")
    write("Ready.\n")


def probe(bind: str) -> tuple[int, str]:
    """Send a readiness probe, and return the status and the body of the response.

    :param bind: the address that the service listens on, or ``unix:`` and a path.
    :raises OSError: if the connection fails or times out.
    :raises http.client.HTTPException: if the response isn't valid HTTP.
    """
    connection = HTTPConnection("localhost", timeout=TIMEOUT_SECONDS)
    connection.sock = _connect(bind)
    try:
        connection.request("GET", "/health?type=readiness")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _connect(bind: str) -> socket.socket:
    if bind.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(socket_path(bind))
        return connection
    # Connecting to 0.0.0.0 or :: connects to this machine.
    host, port = parse_address(bind)
    return socket.create_connection((host or "0.0.0.0", port), TIMEOUT_SECONDS)  # noqa: S104 - to connect


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
