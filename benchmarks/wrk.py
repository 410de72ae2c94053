"""The load generator: wrk, with one thread, any number of connections, and ``load.lua``."""

import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")

#: How many packages there are in a batch; as in ``load.lua``.
BATCH = 500

# A request that gets no answer for so many seconds is an error.
TIMEOUT = 30

# Packages, or other requests, that are made before the load for each second of it. A faster
# server gets the rest as they are made. A long load has no more than those for ten seconds,
# since LuaJIT's memory is limited.
READY = 12_000
READY_IN_BATCHES = 60_000
READY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    :param kind: a kind of request that ``load.lua`` knows.
    :param connections: kept alive, each with one request at a time.
    :param path: what to get, where the kind is ``get``.
    """

    kind: str
    connections: int
    path: str = "/"

    @property
    def packages(self) -> int:
        """How many new packages are in each request."""
        return {"send": 1, "batch": BATCH}.get(self.kind, 0)


@dataclass(frozen=True, slots=True)
class Run:
    """The answers to a load.

    :param made: how many requests were made; when the time is up, each connection may
        have one under way.
    :param good: how many answers were as they should be.
    :param errors: how many answers were not, or never came.
    :param p50: milliseconds; the 99th percentile is corrected by wrk for what a
        connection could not send while it waited ("coordinated omission").
    :param wrk: how many seconds of a processor wrk itself took.
    :param processor: how many seconds of a processor the server took.
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

    :param decisions: a file to write the answers to new packages to, ``package_id status``
        in each line.
    :param known: a file of ``package_id``s that were sent before, for the kinds of
        request that need them.
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
    # wrk connects again where a connection was closed, and reports nothing.
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
