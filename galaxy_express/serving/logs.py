"""The log: lines with a time, written without blocking.

If nothing reads the log, or its disk is full, lines are dropped and counted.
gunicorn's master imports this module before it forks, so it must not import what gevent patches.
"""

import fcntl
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pythonjsonlogger.jsonlogger import JsonFormatter

# How many unread bytes a pipe holds before lines are lost; the maximum for ordinary users.
PIPE_BYTES = 2**20


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class PlainFormatter(logging.Formatter):
    """Plain text lines: the time (UTC), the level, the message, and the request id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(  # noqa: N802 - logging's name
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        """Return the time in ISO 8601."""
        return _time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, without a traceback."""
        request_id = getattr(record, "request_id", "")
        return super().formatMessage(record) + (f" [{request_id}]" if request_id else "")


class JSONFormatter(JsonFormatter):
    """JSON lines: objects with Baseplate's fields and the time (UTC)."""

    def __init__(self) -> None:
        # The base class has no types for its parameters.
        super().__init__(  # type: ignore[no-untyped-call]
            "%(levelname)s %(message)s %(funcName)s %(lineno)d %(module)s %(name)s %(pathname)s"
            " %(process)d %(processName)s %(thread)d %(threadName)s",
            rename_fields={"levelname": "level"},
        )

    def add_fields(
        self,
        log_record: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        """Add the time, and the trace id, which Baseplate uses as the name of the thread."""
        log_record["time"] = _time(record)
        super().add_fields(log_record, record, message_dict)
        if (record.threadName or "").isdigit():
            log_record["traceID"] = record.threadName


class NonBlockingHandler(logging.Handler):
    """Writes lines to a file descriptor, and drops lines that can't be written immediately.

    :param descriptor: a pipe, a terminal, a socket or a file.
    :ivar on_drop: called when a line was lost, completely or in part.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.on_drop: Callable[[], None] = lambda: None
        self._resources = ExitStack()
        self._write = _make_writer(descriptor, self._resources)
        self._is_torn = False
        is_terminal = os.isatty(descriptor)
        self.setFormatter(PlainFormatter() if is_terminal else JSONFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # like the handlers of the standard library
            self.handleError(record)
            return
        if self._is_torn:  # the last line is incomplete
            line = b"\n" + line
        try:
            written = self._write(line)
        except OSError:
            self.on_drop()
            return
        self._is_torn = written < len(line)
        if self._is_torn:
            self.on_drop()

    def close(self) -> None:
        """Close the resources of the handler, but not the file descriptor."""
        self._write = _write_nowhere  # the descriptor may be reused for another file
        self._resources.close()
        super().close()


class StderrHandler(NonBlockingHandler):
    """A handler for standard error, for use in a logging configuration."""

    def __init__(self) -> None:
        super().__init__(sys.stderr.fileno())


def _write_nowhere(line: bytes) -> int:
    raise OSError(f"the log is closed, and {len(line)} bytes are lost")


def _make_writer(descriptor: int, resources: ExitStack) -> Callable[[bytes], int]:
    """Return a function that writes to a file descriptor without blocking.

    :param resources: the stack that closes whatever is opened.
    """
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # it is closed
        mode = 0
    if stat.S_ISSOCK(mode):
        connection = resources.enter_context(socket.socket(fileno=os.dup(descriptor)))
        return lambda line: connection.send(line, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        descriptor = _reopen(descriptor, resources)
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return lambda line: os.write(descriptor, line)


def _reopen(descriptor: int, resources: ExitStack) -> int:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        reopened = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        # Belongs to another user, for example. Then the flag is set for all that share it.
        os.set_blocking(descriptor, False)
        return descriptor
    resources.callback(os.close, reopened)
    return reopened


def install(record_filter: logging.Filter, on_drop: Callable[[], None]) -> None:
    """Make the log that Baseplate has set up non-blocking, and add a time to each line.

    Handlers defined by a configuration file are unchanged if they don't write to standard output
    or error. Their formats are unchanged if they show the time.

    :param record_filter: added to each handler.
    :param on_drop: called for each line that is dropped.
    """
    from gevent import get_hub  # not before the fork

    root = logging.getLogger()
    for logger in (root, logging.getLogger("gunicorn.error")):
        logger.handlers = [_non_blocking(handler) for handler in logger.handlers]
        for handler in logger.handlers:
            handler.addFilter(record_filter)
            if isinstance(handler, NonBlockingHandler):
                handler.on_drop = on_drop
    # gevent's types don't allow replacing a method.
    get_hub().print_exception = _log_exception  # type: ignore[assignment, method-assign]


def _log_exception(
    context: object,
    exception: type[BaseException],
    value: BaseException,
    traceback: TracebackType | None,
) -> None:
    # By default gevent writes it to standard error, without a time.
    exc_info = (exception, value, traceback)
    logging.getLogger("gevent").error("Unhandled exception in %s", context, exc_info=exc_info)


def _non_blocking(handler: logging.Handler) -> logging.Handler:
    if type(handler) is not logging.StreamHandler or handler.stream not in (sys.stderr, sys.stdout):
        return handler
    replacement = NonBlockingHandler(handler.stream.fileno())
    replacement.setLevel(handler.level)
    for each in handler.filters:
        replacement.addFilter(each)
    if handler.formatter is not None and handler.formatter.usesTime():
        replacement.setFormatter(handler.formatter)
    return replacement
