"""How much of each fault or load the torture tests apply."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """How much of each fault or load the torture tests apply.

    :param kills: how often a worker, and then the whole server, is killed.
    :param ends: how often servers are stopped or reloaded.
    :param faults: how often each disk or database fault occurs.
    :param failovers: how often a cluster loses its primary, in each way.
    :param seconds: the duration of load tests.
    :param inputs: the number of garbage inputs.
    :param connections: the number of idle connections.
    :param workers: the number of workers that write during a long read.
    :param read_minutes: the duration of a long read.
    :param soak_minutes: the duration of the soak test, under everyday load.
    """

    kills: int
    ends: int
    faults: int
    failovers: int
    seconds: float
    inputs: int
    connections: int
    workers: int
    read_minutes: float
    soak_minutes: float


SHORT = Amount(
    kills=1,
    ends=1,
    faults=1,
    failovers=1,
    seconds=1.5,
    inputs=300,
    connections=2_500,
    workers=2,
    read_minutes=0,
    soak_minutes=0,
)
LONG = Amount(
    kills=30,
    ends=15,
    faults=5,
    failovers=10,
    seconds=15,
    inputs=20_000,
    connections=10_000,
    workers=16,
    read_minutes=0.5,
    soak_minutes=0,
)
