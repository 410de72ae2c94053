"""Shared lookups: which keys share a query, and whom an error reaches."""

from collections.abc import Callable, Collection

import gevent
import pytest
from gevent.event import Event

from galaxy_express.shared_lookups import QUERIES, SharedLookups


class Doubler:
    """Doubles numbers, with queries that end when they are allowed to.

    :ivar queries: the numbers of each query that was started.
    :ivar end: whether queries may end.
    """

    def __init__(self) -> None:
        self.queries: list[set[int]] = []
        self.end = Event()
        self.factor = 2
        self.error: BaseException | None = None
        self.lookups = SharedLookups(self._find_one, self._find_many)

    def _find_one(self, number: int) -> int:
        return self._find_many([number])[number]

    def _find_many(self, numbers: Collection[int]) -> dict[int, int]:
        self.queries.append(set(numbers))
        found = {number: number * self.factor for number in numbers}
        self.end.wait()
        if self.error is not None:
            raise self.error
        return found

    def look_up(self, *numbers: int) -> "list[gevent.Greenlet[[int], int]]":
        """Start to look up numbers, concurrently."""
        find: Callable[[int], int] = self.lookups.find
        greenlets = [gevent.spawn(find, number) for number in numbers]
        gevent.sleep(0)
        return greenlets


FIRST = tuple(range(QUERIES))


@pytest.fixture(name="doubler")
def busy_doubler() -> Doubler:
    """A doubler with as many running queries as may run at the same time."""
    doubler = Doubler()
    doubler.look_up(*FIRST)
    return doubler


def test_lone() -> None:
    """A lone key is looked up at once."""
    doubler = Doubler()
    doubler.end.set()

    assert doubler.lookups.find(3) == 6
    assert doubler.queries == [{3}]


def test_shared(doubler: Doubler) -> None:
    """Keys that are requested while others are looked up share the next query."""
    waiting = doubler.look_up(10, 11, 11, 12)

    assert doubler.queries == [{number} for number in FIRST]
    doubler.end.set()

    assert [greenlet.get(timeout=10) for greenlet in waiting] == [20, 22, 22, 24]
    assert doubler.queries == [*({number} for number in FIRST), {10, 11, 12}]


def test_later_keys(doubler: Doubler) -> None:
    """A key is never answered from a query that had started before it was requested."""
    doubler.factor = 5
    (waiting,) = doubler.look_up(FIRST[0])
    doubler.end.set()

    assert waiting.get(timeout=10) == FIRST[0] * 5


def test_errors(doubler: Doubler) -> None:
    """Each waiter gets an exception of its own, and later keys are looked up."""
    doubler.error = LookupError("lost connection")
    waiting = doubler.look_up(10, 11)
    doubler.end.set()
    gevent.joinall(waiting, timeout=10)

    errors = [greenlet.exception for greenlet in waiting]
    assert [repr(error) for error in errors] == ["LookupError('lost connection')"] * 2
    assert errors[0] is not errors[1]
    doubler.error = None
    assert doubler.lookups.find(3) == 6


@pytest.mark.parametrize(
    "error", [gevent.GreenletExit(), gevent.Timeout(None)], ids=["killed", "timed out"]
)
def test_interrupted_query(doubler: Doubler, error: BaseException) -> None:
    """If a shared query is killed or times out, its waiters get an error, and later keys are looked
    up."""
    doubler.error = error
    waiting = doubler.look_up(10, 11)
    doubler.end.set()
    gevent.joinall(waiting, timeout=10)

    errors = [greenlet.exception for greenlet in waiting]
    assert [repr(error) for error in errors] == ["RuntimeError('the query was interrupted')"] * 2
    doubler.error = None
    assert [greenlet.get(timeout=10) for greenlet in doubler.look_up(*FIRST, 10, 11)] == [
        *(number * 2 for number in FIRST),
        20,
        22,
    ]


@pytest.mark.parametrize("interrupted", [FIRST, (20, 21)], ids=["running", "waiting"])
def test_interrupted(interrupted: tuple[int, ...]) -> None:
    """A lookup that is interrupted, while it runs or waits, keeps no others from running."""
    doubler = Doubler()
    for numbers in (FIRST, (20, 21)):
        greenlets = doubler.look_up(*numbers)
        if numbers == interrupted:
            gevent.killall(greenlets)
    waiting = doubler.look_up(10, 11)
    doubler.end.set()

    assert [greenlet.get(timeout=10) for greenlet in waiting] == [20, 22]
    assert doubler.lookups.find(3) == 6
    assert [greenlet.get(timeout=10) for greenlet in doubler.look_up(*FIRST, 3)] == [
        *(number * 2 for number in FIRST),
        6,
    ]
