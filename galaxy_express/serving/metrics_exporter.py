"""The address that metrics are exported on, and the folder in which workers store them.

gunicorn's master imports this module before it forks, so it must not import what gevent patches.
"""

import configparser
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress

PORT = 6060

# Environment variables.
BIND = "GALAXY_EXPRESS_METRICS_BIND"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# Variables that pass the metrics of a server to the one that replaces it.
_LISTENER = "GALAXY_EXPRESS_METRICS_LISTENER"
_SERIES = "GALAXY_EXPRESS_METRICS_SERIES"

_PREFIX = "galaxy_express_metrics_"


def is_enabled(config_path: str) -> bool:
    """Return whether ``metrics.enabled`` is true or missing in a configuration file.

    Return false if the file can't be read; the application reports the error at startup.
    """
    parser = configparser.RawConfigParser()
    try:
        with open(config_path, encoding="utf-8") as config_file:
            parser.read_file(config_file)
        settings = parser["app:main"]
    except (OSError, KeyError, UnicodeDecodeError, configparser.Error):
        return False
    return os.path.expandvars(settings.get("metrics.enabled", "true")).lower() == "true"


def exporter_address(service: str, environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the address in ``$GALAXY_EXPRESS_METRICS_BIND``: a port, or a host and a port.

    By default the host is that of the service, and the port is 6060.

    :param service: the address of the service: a host and a port, or the path of a socket.
    :raises ValueError: with a message that names the variable, if it is invalid, or if the address
        is that of the service.
    """
    service_host, _, service_port = service.rpartition(":")
    default_host = _host(service_host) or "127.0.0.1"
    given = environ.get(BIND, "") or str(PORT)
    host, _, port = given.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(
            f"{BIND}: an IPv6 address needs brackets and a port, such as [::1]:6060, not {given!r}"
        )
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{BIND}: must be a port such as 6060, or 127.0.0.1:6060, not {given!r}")
    address = _host(host) or default_host, int(port)
    hosts = {address[0], default_host}
    if str(address[1]) == service_port.lstrip("0") and (len(hosts) == 1 or hosts & _ALL_HOSTS):
        raise ValueError(f"{BIND}: the service itself listens on port {port}; choose another one")
    return address


_ALL_HOSTS = {"0.0.0.0", "::"}  # noqa: S104 - compared


def _host(text: str) -> str:
    return "" if "/" in text or text == "unix" else text.strip("[]")


#: The socket that Prometheus connects to, if metrics are enabled. Workers inherit it.
listener: socket.socket | None = None


def listen(address: tuple[str, int]) -> None:
    """Listen for Prometheus on a port that is not shared, or on the socket inherited from the
    server that this one replaces.

    :raises OSError: with a one-line message, if the port is in use or the host isn't local.
    """
    global listener
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        if _LISTENER in os.environ:
            listener = socket.socket(fileno=int(os.environ[_LISTENER]))
        else:
            listener = socket.create_server(address, family=family, backlog=16)
    except OSError as error:
        # Python adds the address to the reason.
        reason = str(error.strerror).partition(" (while attempting")[0]
        raise OSError(
            f"Metrics can't be exported on port {address[1]} of {address[0]}"
            f" ({reason}); choose another address with {BIND}"
        ) from error
    # Accepted connections inherit it, so that those of vanished clients are closed.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def hand_over() -> dict[str, str]:
    """Return environment variables for a server that replaces this one. It listens on the same
    socket and stores its metrics in the same folder, so the sums over both servers are exported.

    Must be called in the process that becomes the new server.
    """
    if listener is None:
        return {}
    listener.set_inheritable(True)
    if _lock_descriptor is not None:
        os.set_inheritable(_lock_descriptor, True)
    # There are at most two servers at a time, so two prefixes keep their file names distinct.
    series = "" if os.environ.get(_SERIES) else "b"
    handed_over = {_LISTENER: str(listener.fileno()), _SERIES: series}
    with suppress(OSError):
        handed_over[FOLDER] = folder()
    return handed_over


def worker_id(number: int) -> str:
    """Return the id of a worker, used in its file names. It is unique across servers.

    :param number: the worker's number in its server.
    """
    return f"{os.environ.get(_SERIES, '')}{number}"


#: Holds the lock on the folder. Workers inherit it from the master.
_lock_descriptor: int | None = None


def make_folder() -> None:
    """Create the folder ``$PROMETHEUS_MULTIPROC_DIR``. If the variable is empty or not set, create
    a folder in memory, and set the variable.

    Folders in memory that killed servers left behind are removed. If no folder can be created,
    workers run without metrics.
    """
    global _lock_descriptor
    unset_empty_folder()
    with suppress(OSError):
        if FOLDER not in os.environ:
            memory = "/dev/shm"  # noqa: S108 - see mkdtemp
            parent = memory if os.access(memory, os.W_OK) else tempfile.gettempdir()
            for other in glob.glob(f"{parent}/{_PREFIX}*"):
                _remove_abandoned(other)
            os.environ[FOLDER] = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        os.makedirs(os.environ[FOLDER], exist_ok=True)
        _lock_descriptor = _lock(os.environ[FOLDER])


def unset_empty_folder() -> None:
    """Unset the variable if it is empty: Prometheus's client would use the current folder."""
    if not os.environ.get(FOLDER):
        os.environ.pop(FOLDER, None)


def folder() -> str:
    """Return the folder of the metrics.

    :raises OSError: if it couldn't be created.
    """
    if FOLDER not in os.environ:
        raise OSError("their folder couldn't be created")
    return os.environ[FOLDER]


def remove_folder() -> None:
    """Remove the folder if :py:func:`make_folder` chose its name."""
    path = os.environ.get(FOLDER, "")
    if os.path.basename(path).startswith(_PREFIX):
        shutil.rmtree(path, ignore_errors=True)


def _lock(path: str) -> int:
    """Lock a folder for as long as this process or one of its children runs.

    :raises OSError: if another process has the lock.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(path: str) -> None:
    with suppress(OSError):
        descriptor = _lock(path)
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
