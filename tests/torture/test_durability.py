"""The order of system calls: sync before answer."""

import re
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.conftest import skip_or_fail
from tests.servers.http_client import package
from tests.servers.load import Load, send
from tests.servers.running import WAIT_SECONDS, Installation, Server
from tests.torture.conftest import Report

ANSWERS = 100

# Enough for whole database pages, so that each package id appears in the trace.
LONGEST_STRING = 5_000

_ID = re.compile(r"pkg-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A slow call is split into two lines, with other calls in between.
_SYNC = re.compile(r"(\d+) +(?:fsync|fdatasync)\(\d+<.*-wal>( <unfinished \.\.\.>)?")
_SYNC_RESUMED = re.compile(r"(\d+) +<\.\.\. (?:fsync|fdatasync) resumed>.* = 0")
_LOG_WRITE = re.compile(r"(\d+) +pwrite64\(\d+<.*-wal>")
_SOCKET_WRITE = re.compile(r"\d+ +(?:sendto|sendmsg|write|writev)\(\d+<(?:socket|TCP)")


def test_sync_precedes_the_response(installation: Installation, report: Report) -> None:
    """With concurrent clients, no answer about a package is sent before the log with the package is
    written and synced."""
    with (
        installation.gunicorn() as server,
        _trace(server, installation.folder) as trace,
        Load() as load,
    ):
        for _ in range(8):
            load.add_client(server.port, (send(package()) for _ in count()))
        load.wait_for(ANSWERS)
    answered = _count_answered_packages(trace.read_text())
    assert answered >= ANSWERS
    report(
        "`strace` of two workers with eight clients",
        f"{answered:,} responses",
        "each package was written to the log, then synced, then answered",
    )


@contextmanager
def _trace(server: Server, folder: Path) -> Iterator[Path]:
    """Trace the workers' writes and syncs to a file, which is complete on exit."""
    strace = shutil.which("strace")
    if strace is None:
        skip_or_fail("strace isn't installed")
    trace = folder / "trace"
    calls = "fsync,fdatasync,pwrite64,sendto,sendmsg,write,writev"
    options = ["-f", "-y", f"-s{LONGEST_STRING}", f"-etrace={calls}", f"-o{trace}"]
    options += [f"-p{worker}" for worker in server.workers]
    tracer = subprocess.Popen([strace, *options], stderr=subprocess.PIPE, text=True)
    with tracer:
        assert tracer.stderr is not None
        for _ in server.workers:
            line = tracer.stderr.readline()
            if "attached" not in line:
                skip_or_fail(f"strace may not trace: {line}")
        try:
            yield trace
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(WAIT_SECONDS)


def _count_answered_packages(trace: str) -> int:
    """Return the number of packages in responses, after checking that each was synced before."""
    written: dict[str, set[str]] = defaultdict(set)  # by thread, not yet synced
    synced: set[str] = set()
    answered: set[str] = set()
    for line in trace.splitlines():
        if match := _LOG_WRITE.match(line):
            written[match[1]].update(_ID.findall(line))
        elif (match := _SYNC_RESUMED.match(line)) or (
            (match := _SYNC.match(line)) and not match[2] and line.endswith(" = 0")
        ):
            synced |= written.pop(match[1], set())
        elif _SOCKET_WRITE.match(line):
            packages = set(_ID.findall(line))
            assert packages <= synced, "the sync precedes the response"
            answered |= packages
    return len(answered)
