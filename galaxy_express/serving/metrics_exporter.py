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
    """Listen for Prometheus, on a port that is not shared.

    :raises OSError: with a one-line message, if the port is in use or the host isn't local.
    """
    global listener
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family, backlog=16)
    except OSError as error:
        raise OSError(
            f"Metrics can't be exported on port {address[1]} of {address[0]}"
            f" ({os.strerror(error.errno or 0)}); choose another address with {BIND}"
        ) from error


def make_folder() -> None:
    """Create the folder ``$PROMETHEUS_MULTIPROC_DIR``. If it isn't set, create one in memory, and
    set it.

    Folders in memory that killed servers have left behind are removed. If a folder can't be
    created, workers run without metrics.
    """
    with suppress(OSError):
        if FOLDER not in os.environ:
            memory = "/dev/shm"  # noqa: S108 - see mkdtemp
            parent = memory if os.access(memory, os.W_OK) else tempfile.gettempdir()
            for folder in glob.glob(f"{parent}/{_PREFIX}*"):
                _remove_abandoned(folder)
            os.environ[FOLDER] = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        os.makedirs(os.environ[FOLDER], exist_ok=True)
        _lock(os.environ[FOLDER])


def remove_folder() -> None:
    """Remove the folder, if :py:func:`make_folder` has chosen its name."""
    folder = os.environ.get(FOLDER, "")
    if os.path.basename(folder).startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: str) -> int:
    """Lock a folder for as long as this process or one of its children runs.

    :raises OSError: if another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(folder: str) -> None:
    with suppress(OSError):
        descriptor = _lock(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
