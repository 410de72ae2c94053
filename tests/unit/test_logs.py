"""Lines of the log: what they show, and that writing them never blocks."""

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
    """A pipe: where it is read, and where it is written to."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_lines_for_programs() -> None:
    """A line is a JSON object with the time, in UTC, and what Baseplate's log has."""
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


def test_the_id_of_a_trace() -> None:
    """A thread that Baseplate has named after a trace shows the trace."""
    record = make_record("x")
    record.threadName = "12345678901234567890"
    assert json.loads(JSONFormatter().format(record))["traceID"] == "12345678901234567890"


def test_lines_for_a_person() -> None:
    """A line has the time, the level and the message, and the id of the request if there is one."""
    record = make_record("x")
    assert re.fullmatch(rf"{TIME} WARNING  x", PlainFormatter().format(record))
    record.request_id = "abc"
    assert re.fullmatch(rf"{TIME} WARNING  x \[abc\]", PlainFormatter().format(record))


def test_a_terminal_shows_lines_for_a_person() -> None:
    """On a terminal a line is plain text."""
    reader, terminal = pty.openpty()
    with Log(terminal) as log:
        log.write("x")
    assert re.fullmatch(rf"{TIME} WARNING  x\r\n", os.read(reader, 1000).decode())
    os.close(reader)
    os.close(terminal)


def test_a_pipe_that_is_read_loses_nothing(pipe: tuple[int, int]) -> None:
    """Lines arrive whole and in order."""
    reader, writer = pipe
    with Log(writer) as log:
        for number in range(1000):
            log.write(str(number))
    lines = read_lines(reader)
    assert [line["message"] for line in lines] == [str(number) for number in range(1000)]
    assert log.dropped == 0


def read_lines(reader: int) -> list[dict[str, str]]:
    """What there is to read, each line of it as JSON, without those that are torn."""
    os.set_blocking(reader, False)
    content = b""
    while True:
        try:
            content += os.read(reader, 2**20)
        except BlockingIOError:
            break
    return [json.loads(line) for line in content.split(b"\n") if line.endswith(b"}")]


def test_a_pipe_that_is_full_loses_lines(pipe: tuple[int, int]) -> None:
    """If nobody reads, lines are dropped and counted; when somebody does, later lines arrive."""
    reader, writer = pipe
    with Log(writer) as log:
        for _ in range(100):
            log.write("x" * 50_000)
        assert 0 < log.dropped < 100
        arrived = len(read_lines(reader))
        assert arrived + log.dropped == 100
        log.write("at last")
    assert [line["message"] for line in read_lines(reader)] == ["at last"]
    # A file descriptor that others have, too, is not changed for them.
    assert os.get_blocking(writer)


def test_a_socket_that_is_full_loses_lines() -> None:
    """A socket, as systemd has it, is like a pipe."""
    reader, writer = socket.socketpair()
    with reader, writer, Log(writer.fileno()) as log:
        for _ in range(100):
            log.write("x" * 50_000)
        assert 0 < log.dropped < 100
        assert len(read_lines(reader.fileno())) + log.dropped == 100
        assert os.get_blocking(writer.fileno())


def test_a_disk_that_is_full_loses_lines() -> None:
    """A line that can't be written is dropped and counted."""
    with open("/dev/full", "wb") as full, Log(full.fileno()) as log:
        log.write("x")
    assert log.dropped == 1


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """Lines go where the file descriptor stands, among those of others who have it."""
    path = tmp_path / "log"
    with open(path, "wb", buffering=0) as file, Log(file.fileno()) as log:
        file.write(b"before\n")
        log.write("x")
        file.write(b"after\n")
    before, line, after = path.read_text().splitlines()
    assert (before, json.loads(line)["message"], after) == ("before", "x", "after")


def test_a_closed_log_loses_lines() -> None:
    """Where standard error is closed nothing fails."""
    descriptor = os.dup(2)
    os.close(descriptor)
    with Log(descriptor) as log:
        log.write("x")
    assert log.dropped == 1


def test_a_line_that_cannot_be_formatted(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong call of the log raises nothing; it is reported on standard error."""
    handler = NonBlockingHandler(pipe[1])
    record = make_record("%d")
    record.args = ("Kif",)
    handler.emit(record)
    handler.close()
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.fixture
def installed(capfd: pytest.CaptureFixture[str]) -> Iterator[list[logging.Handler]]:
    """The handlers of the root logger, after the log was installed on standard error."""
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
    root.handlers, hub.print_exception = before, print_exception


def test_the_log_of_a_configuration(
    installed: list[logging.Handler], capfd: pytest.CaptureFixture[str]
) -> None:
    """A handler that writes to standard error no longer blocks, and keeps its filters and a format
    that shows the time; other handlers stay as they are."""
    kinds = [type(handler) for handler in installed[:2]]
    assert kinds == [NonBlockingHandler, logging.StreamHandler]
    logging.getLogger("zapp").error("a secret")
    logging.getLogger("zapp").error("no mystery")
    printed = capfd.readouterr().err
    assert re.search(r"^\d{4}-.*: no mystery$", printed, re.MULTILINE)
    assert not re.search(r"^\d{4}-.*: a secret$", printed, re.MULTILINE)


def test_an_unhandled_exception_of_a_greenlet(
    installed: list[logging.Handler], capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception that ends a greenlet is one line of the log, with its traceback."""

    def fail() -> None:
        raise ValueError("Kif")

    gevent.spawn(fail).join()
    printed = capfd.readouterr().err
    assert "Unhandled exception in <Greenlet" in printed
    assert "ValueError: Kif" in printed
