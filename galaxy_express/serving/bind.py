"""The address that a server listens on: ``python -m galaxy_express.serving.bind ADDRESS``."""

import errno
import os
import re
import socket
import stat
import sys
from tempfile import TemporaryFile

# The longest path of a Unix socket on Linux, in bytes.
_LONGEST_PATH = 107

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<host>[^:*\[\]]*)):(?P<port>[0-9]{1,5})")

_ADVICE = {
    errno.EADDRINUSE: "another program is listening there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine doesn't have that address; choose one that it has",
    errno.EACCES: "only root may listen there; choose a port above 1023",
}


def parse_address(address: str) -> tuple[str, int]:
    """Parse an address such as ``127.0.0.1:9090`` or ``[::1]:9090``.

    :returns: the host, which is empty for all addresses of the machine, and the port.
    :raises ValueError: for anything else, with a message that describes a valid address.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"]) < 65536:
        raise ValueError(
            f"{address!r} is not an address to listen on: give a host and a port,"
            " such as 127.0.0.1:9090 or [::1]:9090"
        )
    return match["ipv6"] or match["host"] or "", int(match["port"])


def check_form(address: str) -> None:
    """Check that a text is an address, or ``unix:`` and a path in an existing folder.

    :raises ValueError: for anything else.
    """
    if not address.startswith("unix:"):
        parse_address(address)
        return
    path = socket_path(address)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(
            f"{address!r} is too long: the path of a Unix socket has at most {_LONGEST_PATH} bytes"
        )
    is_taken = os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode)
    if not path or is_taken or not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"{address!r} is not the path of a socket in an existing folder")


def socket_path(address: str) -> str:
    """Return the path in an address such as ``unix:/path`` or ``unix:///path``."""
    return address.removeprefix("unix:").removeprefix("//")


def check_address(address: str) -> None:
    """Check that a server could listen on an address now.

    Of a Unix socket only the path is checked, and whether its folder is writable: gunicorn replaces
    the sockets of other servers.

    :raises ValueError: if it can't, with a message that says why and what to do.
    """
    check_form(address)
    if address.startswith("unix:"):
        try:
            check_writable(os.path.dirname(socket_path(address)) or ".")
        except ValueError as error:
            raise ValueError(f"Can't listen on {address}: {error}") from error
        return
    host, port = parse_address(address)
    try:
        found = socket.getaddrinfo(host or None, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore closed connections
            probe.bind(place)
            probe.listen()
    except UnicodeError as error:
        raise ValueError(f"Can't listen on {address}: {host!r} is not a host") from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise ValueError(f"Can't listen on {address}: {advice} (BIND=127.0.0.1:9191)") from error


def check_writable(folder: str) -> None:
    """Check that files can be created in a folder.

    :raises ValueError: if they can't, with a message that names the folder.
    """
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"no file can be created in {folder} ({error.strerror})") from error


if __name__ == "__main__":
    try:
        check_address(sys.argv[1])
    except ValueError as unusable:
        sys.exit(str(unusable))
