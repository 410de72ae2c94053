"""Log lines: their format, and that writing them never blocks."""

import json
import logging
import os
import pty
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from galaxy_express.serving.logs import JSONFormatter, NonBlockingHandler, PlainFormatter, install

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Log:
    """A log on a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._handler = NonBlockingHandler(descriptor)
        self._handler.on_drop = self._count

    def _count(self) -> None:
        self.dropped += 1

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._handler.close()

    def write(self, message: str) -> None:
        """Write a line."""
        self._handler.emit(make_record(message))


def make_record(message: str) -> logging.LogRecord:
    """A record of a message."""
    return logging.LogRecord("zapp", logging.WARNING, "/zapp.py", 7, message, (), None, "brannigan")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its read end and its write end."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_json_lines() -> None:
    """A line is a JSON object with the time in UTC and the fields of Baseplate's log."""
    record = make_record("Kif\u2028, I have made it with a woman")
    record.settings = {"a": "b"}
    record.created = 0.5
    record.threadName = "MainThread"
    line = JSONFormatter().format(record)
    assert line.isascii()
    fields = json.loads(line)
    assert fields["time"] == "1970-01-01T00:00:00.500Z"
    assert fields["message"] == record.message
    assert fields["level"] == "WARNING"
    assert fields["name"] == "zapp"
    assert fields["funcName"] == "brannigan"
    assert fields["settings"] == {"a": "b"}
    assert "traceID" not in fields


def test_trace_id() -> None:
    """The trace id is taken from the name of the thread, where Baseplate puts it."""
    record = make_record("x")
    record.threadName = "12345678901234567890"
    assert json.loads(JSONFormatter().format(record))["traceID"] == "12345678901234567890"


def test_plain_text_lines() -> None:
    """A line has the time, the level and the message, and the id of the request if there is one."""
    record = make_record("x")
    assert re.fullmatch(rf"{TIME} WARNING  x", PlainFormatter().format(record))
    record.request_id = "abc"
    assert re.fullmatch(rf"{TIME} WARNING  x \[abc\]", PlainFormatter().format(record))


def test_terminal_gets_plain_text() -> None:
    """On a terminal a line is plain text."""
    reader, terminal = pty.openpty()
    with Log(terminal) as log:
        log.write("x")
    assert re.fullmatch(rf"{TIME} WARNING  x\r\n", os.read(reader, 1000).decode())
    os.close(reader)
    os.close(terminal)


def test_pipe_that_is_read(pipe: tuple[int, int]) -> None:
    """Lines arrive whole and in order."""
    reader, writer = pipe
    with Log(writer) as log:
        for number in range(1000):
            log.write(str(number))
    lines = read_lines(reader)
    assert [line["message"] for line in lines] == [str(number) for number in range(1000)]
    assert log.dropped == 0


def read_lines(reader: int) -> list[dict[str, str]]:
    """The complete lines that can be read, parsed as JSON."""
    os.set_blocking(reader, False)
    content = b""
    while True:
        try:
            content += os.read(reader, 2**20)
        except BlockingIOError:
            break
    return [json.loads(line) for line in content.split(b"\n") if line.endswith(b"}")]


def test_full_pipe_loses_lines(pipe: tuple[int, int]) -> None:
    """If nobody reads, lines are dropped and counted; once somebody reads, new lines arrive."""
    reader, writer = pipe
    with Log(writer) as log:
        for _ in range(100):
            log.write("x" * 50_000)
        assert 0 < log.dropped < 100
        arrived = len(read_lines(reader))
        assert arrived + log.dropped == 100
        log.write("at last")
    assert [line["message"] for line in read_lines(reader)] == ["at last"]
    # The descriptor is shared with other processes, so its flags must not change.
    assert os.get_blocking(writer)


def test_full_socket_loses_lines() -> None:
    """A socket, as under systemd, is treated like a pipe."""
    reader, writer = socket.socketpair()
    with reader, writer, Log(writer.fileno()) as log:
        for _ in range(100):
            log.write("x" * 50_000)
        assert 0 < log.dropped < 100
        assert len(read_lines(reader.fileno())) + log.dropped == 100
        assert os.get_blocking(writer.fileno())


def test_full_disk_loses_lines() -> None:
    """A line that can't be written is dropped and counted."""
    with open("/dev/full", "wb") as full, Log(full.fileno()) as log:
        log.write("x")
    assert log.dropped == 1


def test_file_is_appended_to(tmp_path: Path) -> None:
    """Lines are appended to a file that other processes write to, too."""
    path = tmp_path / "log"
    with open(path, "wb", buffering=0) as file, Log(file.fileno()) as log:
        file.write(b"before\n")
        log.write("x")
        file.write(b"after\n")
    before, line, after = path.read_text().splitlines()
    assert (before, json.loads(line)["message"], after) == ("before", "x", "after")


def test_closed_log_loses_lines() -> None:
    """If standard error is closed, nothing fails."""
    descriptor = os.dup(2)
    os.close(descriptor)
    with Log(descriptor) as log:
        log.write("x")
    assert log.dropped == 1


def test_message_that_cannot_be_formatted(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A logging call with wrong arguments raises nothing; it is reported on standard error."""
    handler = NonBlockingHandler(pipe[1])
    record = make_record("%d")
    record.args = ("Kif",)
    handler.emit(record)
    handler.close()
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.fixture
def installed(capfd: pytest.CaptureFixture[str]) -> Iterator[list[logging.Handler]]:
    """The handlers of the root logger after the log was installed on standard error."""
    root, hub = logging.getLogger(), gevent.get_hub()
    before, print_exception = root.handlers, hub.print_exception
    with os.fdopen(os.dup(2), "w") as elsewhere:
        stderr = logging.StreamHandler(sys.stderr)
        stderr.addFilter(lambda record: "secret" not in record.getMessage())
        stderr.setFormatter(logging.Formatter("%(asctime)s: %(message)s"))
        root.handlers = [stderr, logging.StreamHandler(elsewhere)]
        install(logging.Filter(), lambda: None)
        yield root.handlers
        root.handlers[0].close()
    root.handlers = before
    hub.print_exception = print_exception  # type: ignore[method-assign]


def test_log_configured_by_a_file(
    installed: list[logging.Handler], capfd: pytest.CaptureFixture[str]
) -> None:
    """A configured handler for standard error no longer blocks, and keeps its filters and a format
    with the time; other handlers are unchanged."""
    kinds = [type(handler) for handler in installed[:2]]
    assert kinds == [NonBlockingHandler, logging.StreamHandler]
    logging.getLogger("zapp").error("a secret")
    logging.getLogger("zapp").error("no mystery")
    printed = capfd.readouterr().err
    assert re.search(r"^\d{4}-.*: no mystery$", printed, re.MULTILINE)
    assert not re.search(r"^\d{4}-.*: a secret$", printed, re.MULTILINE)


def test_unhandled_exception_in_a_greenlet(
    installed: list[logging.Handler], capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception that ends a greenlet is logged on one line, with its traceback."""

    def fail() -> None:
        raise ValueError("Kif")

    gevent.spawn(fail).join()
    printed = capfd.readouterr().err
    assert "Unhandled exception in <Greenlet" in printed
    assert "ValueError: Kif" in printed
