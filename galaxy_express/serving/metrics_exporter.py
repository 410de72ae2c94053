"""The address at which Prometheus reads metrics, and the folder in which workers keep them.

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

# Variables by which a server hands its metrics over to the one that takes over from it.
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
    except (OSError, KeyError, configparser.Error):
        return False
    return os.path.expandvars(settings.get("metrics.enabled", "true")).lower() == "true"


def exporter_address(service: str, environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the address of the metrics: ``$GALAXY_EXPRESS_METRICS_BIND``.

    It is a port, or a host and a port. By default the host is the service's, and the port 6060.

    :param service: the address of the service: a host and a port, or the path of a socket.
    :raises ValueError: for anything else, naming the variable.
    """
    service_host = _host(service.rpartition(":")[0]) or "127.0.0.1"
    given = environ.get(BIND, "")
    if not given:
        return service_host, PORT
    host, _, port = given.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{BIND}: must be a port such as 6060, or 127.0.0.1:6060, not {given!r}")
    return _host(host) or service_host, int(port)


def _host(text: str) -> str:
    return "" if "/" in text or text == "unix" else text.strip("[]")


#: The socket that Prometheus connects to, if metrics are enabled. Workers inherit it.
listener: socket.socket | None = None


def listen(address: tuple[str, int]) -> None:
    """Listen for Prometheus on a port that is not shared, or take over the listener of the server
    that this one replaces.

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
        raise OSError(
            f"Metrics can't be exported on port {address[1]} of {address[0]}"
            f" ({os.strerror(error.errno or 0)}); choose another address with {BIND}"
        ) from error


def hand_over() -> dict[str, str]:
    """Return the variables with which another server takes over: it listens on the same socket, and
    keeps its metrics in the same folder, so that sums of both are exported.

    To be called in the process that becomes the other server.
    """
    if listener is None:
        return {}
    listener.set_inheritable(True)
    if _lock_descriptor is not None:
        os.set_inheritable(_lock_descriptor, True)
    # There are never more than two servers, so their workers need two series of names.
    series = "" if os.environ.get(_SERIES) else "b"
    handed_over = {_LISTENER: str(listener.fileno()), _SERIES: series}
    with suppress(OSError):
        handed_over[FOLDER] = folder()
    return handed_over


def worker_id(number: int) -> str:
    """The name of a worker in the names of its files, which no worker of another server has.

    :param number: the worker's number in its server.
    """
    return f"{os.environ.get(_SERIES, '')}{number}"


#: Keeps the folder locked. Workers inherit it from the master.
_lock_descriptor: int | None = None


def make_folder() -> None:
    """Create the folder ``$PROMETHEUS_MULTIPROC_DIR``. If it isn't set, create one in memory, and
    set it.

    Folders in memory that killed servers have left behind are removed. If a folder can't be
    created, workers run without metrics.
    """
    global _lock_descriptor
    with suppress(OSError):
        if FOLDER not in os.environ:
            memory = "/dev/shm"  # noqa: S108 - see mkdtemp
            parent = memory if os.access(memory, os.W_OK) else tempfile.gettempdir()
            for other in glob.glob(f"{parent}/{_PREFIX}*"):
                _remove_abandoned(other)
            os.environ[FOLDER] = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        os.makedirs(os.environ[FOLDER], exist_ok=True)
        _lock_descriptor = _lock(os.environ[FOLDER])


def folder() -> str:
    """The folder of the metrics.

    :raises OSError: if there is none, since it couldn't be made.
    """
    if FOLDER not in os.environ:
        raise OSError("there was no room for their folder")
    return os.environ[FOLDER]


def remove_folder() -> None:
    """Remove the folder, if :py:func:`make_folder` has chosen its name."""
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
