"""The load generator: wrk, with one thread, any number of connections, and ``load.lua``."""

import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")

#: The number of packages in a batch; must equal the one in ``load.lua``.
BATCH = 500

# A request without a response for this many seconds is an error.
TIMEOUT = 30

# Packages or other requests generated in advance, per second of the load. For a faster server,
# more are generated during the load. For a long load, only those for ten seconds are generated in
# advance, since LuaJIT's memory is limited.
READY = 12_000
READY_IN_BATCHES = 60_000
READY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of load.

    :param kind: a kind of request defined in ``load.lua``.
    :param connections: the number of persistent connections, each with one request at a time.
    :param path: the path, if the kind is ``get``.
    """

    kind: str
    connections: int
    path: str = "/"

    @property
    def packages(self) -> int:
        """The number of new packages per request."""
        return {"send": 1, "batch": BATCH}.get(self.kind, 0)


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a load.

    :param made: the number of requests made; at the end, each connection may have one in
        progress.
    :param good: the number of expected responses.
    :param errors: the number of unexpected or missing responses.
    :param p50: milliseconds; the 99th percentile is corrected by wrk for the requests that a
        connection could not send while it waited ("coordinated omission").
    :param wrk: the CPU time of wrk itself, in seconds.
    :param processor: the CPU time of the server, in seconds.
    """

    seconds: float
    made: int
    good: int
    errors: int
    p50: float
    p99: float
    wrk: float = 0.0
    processor: float = 0.0


def run_wrk(port: int, load: Load, seconds: int, decisions: Path, known: Path) -> Run:
    """Send a load to a server on this machine for a while.

    :param decisions: the file to write the decisions on new packages to, as lines of
        ``package_id status``.
    :param known: a file with the ``package_id``s of earlier packages, for the kinds of requests
        that need them.
    """
    command = [
        "wrk",
        "--threads=1",
        f"--connections={load.connections}",
        f"--duration={seconds}s",
        f"--timeout={TIMEOUT}s",
        f"--script={SCRIPT}",
        f"http://127.0.0.1:{port}",
        "--",
        load.kind,
        load.path,
        str(random.SystemRandom().getrandbits(52)),
        str(decisions),
        str(known),
        str(
            min(seconds, READY_SECONDS)
            * (READY_IN_BATCHES // BATCH if load.kind == "batch" else READY)
        ),
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    # wrk reconnects after a connection was closed, without reporting it.
    lost = result["made"] - result["answers"] - load.connections
    return Run(
        seconds=result["seconds"],
        made=result["made"],
        good=result["answers"] - result["bad"],
        errors=result["bad"] + max(result["broken"], lost),
        p50=result["p50"],
        p99=result["p99"],
        wrk=result["processor"],
    )
