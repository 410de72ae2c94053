"""How much to torture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """How much of each attack there is to be.

    :param kills: how often a worker is killed, and then the whole server.
    :param ends: how often servers are told to end, or to begin anew.
    :param faults: how often each fault of the disk or of the database happens.
    :param seconds: how long a load lasts, where it is the load that matters.
    :param inputs: how many pieces of garbage are sent.
    :param connections: how many connections are opened that then do nothing.
    :param soak_minutes: how long the service is under a load like that of any day.
    """

    kills: int
    ends: int
    faults: int
    seconds: float
    inputs: int
    connections: int
    soak_minutes: float


SHORT = Amount(
    kills=1, ends=1, faults=1, seconds=1.5, inputs=300, connections=2_500, soak_minutes=0
)
LONG = Amount(
    kills=30, ends=15, faults=5, seconds=15, inputs=20_000, connections=10_000, soak_minutes=0
)
