"""Metric values in files, from which the values of all workers are summed.

Metrics must never make a request fail. prometheus_client's own values raise if their folder is
missing, and writing to them kills the process (SIGBUS) if the disk is full, since their files are
sparse. The files here are allocated before they are written to. If that fails, values stay in the
worker's memory and aren't exported. The parts of prometheus_client used here are untyped.
"""

import logging
import os
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import gevent.socket
from baseplate.server import prometheus
from gevent.monkey import get_original
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIServer
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from galaxy_express.serving import metrics_exporter

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

FILE_BYTES = 64 * 1024

# Each is an open file, and few are reserved for anything but clients (open_files.RESERVED).
_MAX_CONNECTIONS = 10

# The errors of a damaged file, and also those of a missing folder or a full disk.
_DAMAGED = (ValueError, RuntimeError, IndexError, struct.error)
_UNUSABLE = (OSError, *_DAMAGED)


class _AllocatedFile(MmapedDict):
    """A file of values whose disk space is allocated before it is written to.

    The base class grows files sparsely, and writing a value through it takes several times as long.
    Allocating and writing values directly are only possible through its private names;
    tests/unit/test_metrics_files.py fails if they change.

    :ivar cells: the content of the file, as floating-point numbers.
    :raises OSError: if the disk is full.
    """

    cells: "memoryview[float]"

    def __init__(self, path: str) -> None:
        _allocate(path, FILE_BYTES)
        try:
            # The base class has no types.
            super().__init__(path)  # type: ignore[no-untyped-call]
        except _DAMAGED:
            self._f.close()
            raise
        self._map_cells()

    def _map_cells(self) -> None:
        self.cells = memoryview(self._m)[: self._capacity // 8 * 8].cast("d")

    def _init_value(self, key: str) -> None:
        longest = 4 + len(key.encode()) + 8 + 16
        if self._used + longest > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]
        self._map_cells()

    def cell(self, key: str) -> int:
        """Return the index of a value in ``cells``, after creating it if necessary."""
        self.read_value(key)  # type: ignore[no-untyped-call]
        position: int = self._positions[key]  # a multiple of 8
        return position // 8

    def close(self) -> None:
        """Close the file."""
        self.cells.release()
        super().close()  # type: ignore[no-untyped-call]


def _allocate(path: str, size: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.unlink(path)  # an empty file would be invalid
        raise
    finally:
        os.close(descriptor)


class _Memory:
    """Holds a value that can't be stored in a file."""

    def __init__(self) -> None:
        self.cells = [0.0]


class FileValue:
    """A metric value, with the interface that prometheus_client uses."""

    _multiprocess = True
    _files: ClassVar[dict[str, _AllocatedFile]] = {}
    # Python's own lock is faster than gevent's, and sufficient: a greenlet that holds it never
    # switches. It is reentrant because signal handlers may count, too. threading.RLock would be
    # the slower pure-Python version, since gevent patches threading.
    _lock = get_original("_thread", "RLock")()
    _is_reported = False

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> None:
        self._store: _AllocatedFile | _Memory = _Memory()
        self._cell = 0
        key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        kind = f"gauge_{multiprocess_mode}" if typ == "gauge" else typ
        try:
            with self._lock:
                file = self._open(kind)
                self._cell = file.cell(key)
                self._store = file
        except _UNUSABLE as error:
            self._report(error)

    @classmethod
    def _open(cls, kind: str) -> _AllocatedFile:
        if kind not in cls._files:
            name = f"{kind}_{prometheus.worker_id()}.db"
            cls._files[kind] = _AllocatedFile(os.path.join(metrics_exporter.folder(), name))
        return cls._files[kind]

    @classmethod
    def _report(cls, error: Exception) -> None:
        if not cls._is_reported:
            cls._is_reported = True
            logger.error("Metrics can't be stored, so this process has none: %s", error)

    def inc(self, amount: float) -> None:
        """Add to the value."""
        with self._lock:
            self._store.cells[self._cell] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the value."""
        with self._lock:
            self._store.cells[self._cell] = value

    def get(self) -> float:
        """Return the value in this worker."""
        return self._store.cells[self._cell]

    def set_exemplar(self, exemplar: object) -> None:
        """Do nothing: files don't support exemplars."""

    def get_exemplar(self) -> None:
        """Do nothing: files don't support exemplars."""


def export_metrics() -> None:
    """Store the values of all metrics created from now on in files, and export their sums in this
    event loop. Without a listener, keep them in memory.

    Workers share the listener: each of them exports the sums over all workers.
    """
    listener = metrics_exporter.listener
    if listener is None:
        values.ValueClass = values.MutexValue
        return
    values.ValueClass = FileValue
    WSGIServer(
        gevent.socket.socket(fileno=os.dup(listener.fileno())),
        application=_export,
        log=LoggingLogAdapter(logger, level=logging.DEBUG),
        error_log=LoggingLogAdapter(logger, level=logging.ERROR),
        spawn=Pool(_MAX_CONNECTIONS),
    ).start()


def _export(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    try:
        os.makedirs(metrics_exporter.folder(), exist_ok=True)  # it may have been deleted
        exported: Iterable[bytes] = prometheus.export_metrics(environ, start_response)
    except _UNUSABLE as error:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"There are no metrics: {error}\n".encode()]
    return exported
