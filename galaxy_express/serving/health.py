"""The command ``galaxy-express health``: ask the service on this machine whether it is ready.

The image's health check runs it every few seconds, so it imports little.
"""

import socket
import sys
from http.client import HTTPConnection, HTTPException

from galaxy_express.serving import environment
from galaxy_express.serving.bind import parse_address

# Less than the image's health check may take, so that the reason is seen.
TIMEOUT_SECONDS = 4


def main() -> None:
    """Ask where ``$GALAXY_EXPRESS_BIND`` says.

    :raises SystemExit: with the reason, if the service isn't ready.
    """
    bind = environment.bind()
    try:
        status, body = ask(bind)
    except (OSError, HTTPException) as error:
        sys.exit(f"No answer from {bind}: {error}")
    if status != 200:
        sys.exit(f"Not ready: {body}")
    sys.stdout.write("Ready.\n")


def ask(bind: str) -> tuple[int, str]:
    """Ask for readiness, and return the status and the body of the answer.

    :param bind: the address that the service listens on, or ``unix:`` and a path.
    :raises OSError: if nobody answers; or :py:exc:`http.client.HTTPException`.
    """
    connection = HTTPConnection("localhost", timeout=TIMEOUT_SECONDS)
    connection.sock = _connect(bind)
    try:
        connection.request("GET", "/health?type=readiness")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _connect(bind: str) -> socket.socket:
    if bind.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(bind.removeprefix("unix:").removeprefix("//"))
        return connection
    # To connect to 0.0.0.0 or :: is to connect to this machine.
    host, port = parse_address(bind)
    return socket.create_connection((host or "0.0.0.0", port), TIMEOUT_SECONDS)  # noqa: S104


if __name__ == "__main__":
    main()
